"""From features to a registered version; each step reads exactly what was declared before the first."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_provider.adapters import training
from mlops_provider.core.evidence import digest_of
from mlops_provider.core.names import PARTITION, Alias, Kind, Table, Tag, Task
from mlops_provider.exceptions import NotApprovedError
from mlops_provider.steps.declaration import Declaration, declare_gate, declared_for
from mlops_provider.steps.evaluate import evaluate_model
from mlops_provider.steps.learning import estimator, examples, task, threads, training_rows
from mlops_provider.steps.source import calling

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

__all__ = ["declare_gate", "evaluate_model", "register_model", "search_parameters", "train_model"]

log = logging.getLogger(__name__)

_EXAMPLE_ROWS = 5


def search_parameters(
    spec: ModelSpec,
    stores: Stores,
    through: str,
    *,
    declaration: str,
    trials: int | None = None,
    origin: Origin,
) -> dict[str, Any]:
    """
    Search the estimator's parameters on the training partitions, validating on the last of them.

    The partition of the gate is never seen. With one training partition, its last fifth in time validates.

    :param through: Partition the candidate will be judged on.
    :param declaration: Ledger ID of the gate's declaration.
    :param trials: Parameter sets to try; by default what ``model.yaml`` says.
    :return: The best parameters.
    :raises SpecError: ``estimator`` or ``space``, or fitting what they gave, failed. Not retried.
    """
    record = declared_for(spec, stores, through, declaration)
    declared = Declaration.from_json(record.payload)

    def search() -> Mapping[str, Any]:
        frame = training_rows(spec, stores, declared)
        later = training.time_split(frame, partition=PARTITION, event_time=spec.event_time)
        early, late = (
            examples(spec, rows).sample(spec.search.sample_rows, spec.seed) for rows in (frame[~later], frame[later])
        )
        with calling(spec, "estimator", "space"):
            found = training.search(
                partial(estimator, spec),
                spec.function("space"),
                early,
                late,
                metric=spec.gate.primary,
                trials=trials or spec.search.trials,
                timeout_seconds=spec.search.timeout_seconds,
                seed=spec.seed,
                threads=threads(spec, Task.SEARCH_PARAMETERS),
            )
        asked, limit = trials or spec.search.trials, spec.search.timeout_seconds
        warnings = list(found.on_limit)
        if found.cut:
            warnings.append(
                f"The search was cut: {found.trials} of {asked} trials began within {limit} s, so another run may find "
                "other parameters. Raise search.timeout_seconds, or lower trials or sample_rows, in model.yaml."
            )
        for warning in warnings:
            log.warning("%s", warning)
        return {
            "params": dict(found.params),
            "metric": spec.gate.primary,
            "score": found.score,
            "trials": found.trials,
            "asked": asked,
            "cut": found.cut,
            "warnings": warnings,
            "rows": len(early),
            "validation_rows": len(late),
            "declaration": record.record_id,
        }

    found = stores.ledger.decide_once(
        Kind.SEARCH,
        spec.name,
        origin.key,
        search,
        inputs={"declaration": declaration, "trials": trials, "spec": spec.digest, "code": spec.code_digest},
        actor=origin.actor,
        as_of=spec.labels_known_at(through),
    )
    return dict(found.payload["params"])


def train_model(
    spec: ModelSpec, stores: Stores, through: str, *, parameters: Mapping[str, Any], declaration: str, origin: Origin
) -> str:
    """
    Fit the estimator on the declared partitions and log it to MLflow.

    There is one MLflow run per DAG run, declaration, parameters and code; a retry continues it, and a model that was
    logged is not trained again.

    :param through: Partition the candidate will be judged on.
    :param parameters: Parameters of the estimator.
    :param declaration: Ledger ID of the gate's declaration.
    :return: MLflow run ID.
    :raises SpecError: ``estimator``, or fitting what it gave, failed. Not retried.
    """
    record = declared_for(spec, stores, through, declaration)
    declared = Declaration.from_json(record.payload)
    given = {"declaration": declaration, "parameters": dict(parameters), "code": spec.code_digest}
    run_id = stores.registry.ensure_run(
        spec.name,
        f"{origin.dag_id}/{origin.run_id}:{digest_of(given)}",
        name=f"{declared.through} {origin.run_id}",
        tags={
            Tag.MODEL: spec.name,
            Tag.PARTITION: declared.through,
            Tag.TRAINED_THROUGH: declared.trained_on[-1],
            Tag.CAUSE: origin.run_id,
            Tag.SEED: str(spec.seed),
            Tag.CODE_DIGEST: spec.code_digest,
            Tag.SPEC_DIGEST: spec.digest,
            Tag.GATE_DIGEST: declared.digest,
            Tag.LEDGER_HEAD: record.digest,
        },
    )
    if stores.ledger.find(Kind.TRAINING, run_id):
        log.info("Run %s has its model already", run_id)
        stores.registry.finish(run_id)  # the try that recorded it may have been killed before it could
        return run_id

    known = examples(spec, training_rows(spec, stores, declared))
    with calling(spec, "estimator"):
        model = training.fit(estimator(spec, parameters), known, threads=threads(spec, Task.TRAIN_MODEL))
    stores.registry.log(
        run_id,
        params={
            **parameters,
            "trained_on": f"{declared.trained_on[0]} to {declared.trained_on[-1]}",
            "features_version": declared.features.version,
            "outcomes_version": declared.outcomes.version,
        },
        metrics={"training_rows": float(len(known))}
        | {f"training_{name}": value for name, value in task(spec).described(known.y).items()},
    )
    stores.registry.log_dataset(run_id, declared.features, f"{spec.name}/{Table.FEATURES}", "training")
    stores.registry.log_dataset(run_id, declared.outcomes, f"{spec.name}/{Table.OUTCOMES}", "training")
    model_uri = stores.registry.log_model(
        run_id,
        model,
        example=known.X.head(_EXAMPLE_ROWS),
        pip_requirements=list(training.pinned_requirements()),
        trusted_types=list(training.TRUSTED_TYPES),
        predict=spec.task.method,
    )
    stores.ledger.append(
        Kind.TRAINING,
        spec.name,
        {
            "run_id": run_id,
            "model_uri": model_uri,
            "parameters": dict(parameters),
            "trained_on": list(declared.trained_on),
            "features": declared.features.as_json(),
            "outcomes": declared.outcomes.as_json(),
            "columns": list(spec.feature_columns),
            "rows": len(known),
            "seed": spec.seed,
            "spec_digest": spec.digest,
            "code_digest": spec.code_digest,
            "requirements": list(training.pinned_requirements()),
            "declaration": declaration,
        },
        key=run_id,
        actor=origin.actor,
        as_of=spec.labels_known_at(declared.through),
    )
    stores.registry.finish(run_id)
    return run_id


def register_model(spec: ModelSpec, stores: Stores, *, run_id: str, verdict: str, origin: Origin) -> str:
    """
    Put the run's model in the registry as ``challenger``, if the gate said yes to this very run.

    Safe to retry: a second attempt finds the version the first one made.

    :param run_id: MLflow run that logged the model.
    :param verdict: Ledger ID of the gate's verdict on it.
    :return: The version number, as a string.
    :raises NotApprovedError: No passing verdict on this very run. Not retried.
    """
    gate = stores.ledger.get(verdict)
    if gate.kind != Kind.GATE or gate.model != spec.name or gate.payload["run_id"] != run_id:
        raise NotApprovedError(f"Record {verdict!r} is no verdict on run {run_id!r} of {spec.name!r}.")
    if not gate.payload["passed"]:
        raise NotApprovedError(f"Run {run_id!r} not registered. {gate.payload['summary']}")
    declared = Declaration.from_json(stores.ledger.get(gate.payload["declaration"]).payload)
    version = stores.registry.ensure_version(
        spec.name,
        run_id,
        tags={
            Tag.MODEL: spec.name,
            Tag.PARTITION: declared.through,
            Tag.TRAINED_THROUGH: declared.trained_on[-1],
            Tag.CODE_DIGEST: declared.code_digest,
            Tag.SPEC_DIGEST: declared.spec_digest,
            Tag.GATE_DIGEST: declared.digest,
            Tag.GATE_RECORD: gate.record_id,
        },
    )
    months = declared.trained_on
    stores.registry.describe(
        spec.name,
        about=f"{spec.description.rstrip('.')}. Owner: {spec.owner}." if spec.description else f"Owner: {spec.owner}.",
        version=version,
        text=f"Trained on {months[0]} to {months[-1]}, judged on {declared.through}. {gate.payload['summary']}",
    )
    stores.registry.set_alias(spec.name, Alias.CHALLENGER, version)
    record = stores.ledger.append(
        Kind.REGISTRATION,
        spec.name,
        {
            "version": version,
            "run_id": run_id,
            "gate": gate.record_id,
            "evaluation": gate.payload["evaluation"],
            "declaration": gate.payload["declaration"],
            "trained_through": declared.trained_on[-1],
            "files": stores.registry.model_digest(f"models:/{spec.name}/{version}"),
        },
        key=run_id,
        actor=origin.actor,
        as_of=spec.labels_known_at(declared.through),
    )
    # The digest covers the whole chain up to here, so a ledger whose end is rewritten no longer fits its versions.
    stores.registry.tag_version(spec.name, version, {Tag.LEDGER_HEAD: record.digest})
    return version

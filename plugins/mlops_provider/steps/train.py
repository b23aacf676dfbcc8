"""From features to a registered version; each step reads exactly what was declared before the first."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_provider.adapters import training
from mlops_provider.core.names import PARTITION, Alias, Kind, Tag, Task
from mlops_provider.exceptions import NotApprovedError
from mlops_provider.steps import candidate, conversion
from mlops_provider.steps.declaration import Declaration, declare_gate, declared_for
from mlops_provider.steps.evaluate import evaluate_model
from mlops_provider.steps.learning import estimator, examples, threads, training_rows
from mlops_provider.steps.source import calling

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

__all__ = ["declare_gate", "evaluate_model", "register_model", "search_parameters", "train_model"]

log = logging.getLogger(__name__)


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
    run_id = candidate.begun(spec, stores, declared, record, made_of={"parameters": dict(parameters)}, origin=origin)
    if candidate.finished_before(stores, run_id):
        return run_id

    known = examples(spec, training_rows(spec, stores, declared))
    with calling(spec, "estimator"):
        model = training.fit(estimator(spec, parameters), known, threads=threads(spec, Task.TRAIN_MODEL))
    candidate.logged(
        spec, stores, declared, record, run_id=run_id, model=model, known=known, parameters=parameters, origin=origin
    )
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
    about = _scored_by(spec, stores, run_id, declared)
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
            **about,
            "files": stores.registry.model_digest(f"models:/{spec.name}/{version}"),
        },
        key=run_id,
        actor=origin.actor,
        as_of=spec.labels_known_at(declared.through),
    )
    # The digest covers the whole chain up to here, so a ledger whose end is rewritten no longer fits its versions.
    stores.registry.tag_version(spec.name, version, {Tag.LEDGER_HEAD: record.digest})
    return version


def _scored_by(spec: ModelSpec, stores: Stores, run_id: str, declared: Declaration) -> dict[str, Any]:
    """What predicts for the version, and whom its files are trusted on, for the record of its registration."""
    registered, trained = (stores.ledger.find(kind, run_id) for kind in (Kind.REGISTRATION, Kind.TRAINING))
    if registered is not None or trained is None:  # an earlier try was through with it
        return {}
    trusted = {"trust": trained.payload["trust"]} if "trust" in trained.payload else {}
    return {"scorer": conversion.convert(spec, stores, trained, declared), **trusted}

"""The MLflow run of a candidate: begun once, its model logged once, its training recorded once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.adapters import training
from mlops_provider.core.evidence import digest_of
from mlops_provider.core.names import Kind, Table, Tag
from mlops_provider.steps import models
from mlops_provider.steps.learning import task

if TYPE_CHECKING:
    from mlops_provider.adapters.training import Examples
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.steps.declaration import Declaration
    from mlops_provider.stores.suite import Stores

log = logging.getLogger(__name__)

_EXAMPLE_ROWS = 5


def begun(
    spec: ModelSpec,
    stores: Stores,
    declared: Declaration,
    declaration: Record,
    *,
    made_of: Mapping[str, Any],
    origin: Origin,
    suffix: str = "",
) -> str:
    """
    Give the MLflow run of a candidate, made now if there is none; one per DAG run and what the candidate is made of.

    :param made_of: What decides about the model beside the code, JSON types.
    :param suffix: What is added to its name for people.
    :return: MLflow run ID.
    """
    given = {**made_of, "declaration": declaration.record_id, "code": spec.code_digest}
    return stores.registry.ensure_run(
        spec.name,
        f"{origin.dag_id}/{origin.run_id}:{digest_of(given)}",
        name=f"{declared.through} {origin.run_id}{suffix}",
        tags={
            Tag.MODEL: spec.name,
            Tag.PARTITION: declared.through,
            Tag.TRAINED_THROUGH: declared.trained_on[-1],
            Tag.CAUSE: origin.run_id,
            Tag.SEED: str(spec.seed),
            Tag.CODE_DIGEST: spec.code_digest,
            Tag.SPEC_DIGEST: spec.digest,
            Tag.GATE_DIGEST: declared.digest,
            Tag.LEDGER_HEAD: declaration.digest,
        },
    )


def finished_before(stores: Stores, run_id: str) -> bool:
    """Whether an earlier try has recorded the run's training; then the run is ended, if that try was killed before."""
    if stores.ledger.find(Kind.TRAINING, run_id) is None:
        return False
    log.info("Run %s has its model already", run_id)
    stores.registry.finish(run_id)
    return True


def logged(
    spec: ModelSpec,
    stores: Stores,
    declared: Declaration,
    declaration: Record,
    *,
    run_id: str,
    model: Any,
    known: Examples,
    parameters: Mapping[str, Any],
    origin: Origin,
    own: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """
    Log the model of a run with its data, record its training, and end the run.

    :param known: What it was fitted on.
    :param parameters: Parameters of the estimator.
    :param own: Types of this package that the model holds.
    :param more: Further fields of the record, JSON types.
    """
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
    trusted = models.trust(spec, model)
    requirements = list(training.pinned_requirements(own=bool(own), types=trusted.types if trusted else ()))
    model_uri = stores.registry.log_model(
        run_id,
        model,
        example=known.X.head(_EXAMPLE_ROWS),
        pip_requirements=requirements,
        trusted_types=[*training.TRUSTED_TYPES, *own, *(trusted.types if trusted else ())],
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
            "requirements": requirements,
            "declaration": declaration.record_id,
            **({"trust": trusted.as_json()} if trusted else {}),
            **(more or {}),
        },
        key=run_id,
        actor=origin.actor,
        as_of=spec.labels_known_at(declared.through),
    )
    stores.registry.finish(run_id)

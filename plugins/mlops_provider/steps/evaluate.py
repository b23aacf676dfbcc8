"""Candidate, champion and baselines on the same rows, none of which the candidate was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.adapters import evaluation, training
from mlops_provider.adapters.evaluation_page import evaluation_page
from mlops_provider.adapters.fairness import proxies
from mlops_provider.core.evaluation import CANDIDATE, CHAMPION, Contender, Evaluation
from mlops_provider.core.fairness import Fairness
from mlops_provider.core.names import REPORT, Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError, NotApprovedError
from mlops_provider.steps.declaration import Declaration, declared_for
from mlops_provider.steps.learning import blocks, examples, task, threads, training_rows
from mlops_provider.steps.outcomes import labelled_features

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


def evaluate_model(
    spec: ModelSpec, stores: Stores, through: str, *, run_id: str, declaration: str, origin: Origin
) -> str:
    """
    Score candidate, champion and baselines on the same rows of the declared partition, and write the report.

    :param through: Partition they are judged on.
    :param run_id: MLflow run of the candidate.
    :param declaration: Ledger ID of the gate's declaration.
    :return: Ledger ID of the evaluation.
    :raises NotApprovedError: *run_id* was not trained under this declaration. Not retried.
    :raises DataRejectedError: The features lack a column that ``model.yaml`` names. Not retried.
    """
    declared = Declaration.from_json(declared_for(spec, stores, through, declaration).payload)
    trained = stores.ledger.find(Kind.TRAINING, run_id)
    if trained is None or trained.payload["declaration"] != declaration:
        raise NotApprovedError(f"Run {run_id!r} was not trained under the declaration {declaration!r}: train it first.")

    record = stores.ledger.decide_once(
        Kind.EVALUATION,
        spec.name,
        origin.key,
        lambda: _evaluation(spec, stores, declared, trained, origin),
        inputs={"run_id": run_id, "declaration": declaration, "spec": spec.digest},
        actor=origin.actor,
        as_of=spec.labels_known_at(through),
    )
    found = Evaluation.from_json(record.payload)
    candidate = found.of(CANDIDATE)
    stores.registry.log(
        run_id, metrics={name: score.value for name, score in (candidate.metrics if candidate else {}).items()}
    )
    if found.data:
        stores.registry.log_dataset(run_id, found.data, f"{spec.name}/{Table.FEATURES}", "evaluation")
    return record.record_id


def _evaluation(
    spec: ModelSpec, stores: Stores, declared: Declaration, trained: Record, origin: Origin
) -> Mapping[str, Any]:
    """Score everybody, write the report, and give what the ledger keeps."""
    # All columns: a champion may need one that this version of the use case no longer has.
    rows = labelled_features(spec, stores, declared.features, declared.outcomes, [declared.through])
    if missing := [column for column in spec.kept_columns if column not in rows]:
        raise DataRejectedError(
            f"{spec.name!r}: the features of {declared.through} lack {', '.join(missing)}, which model.yaml names. "
            "Build the features anew, then declare again."
        )
    serving = declared.champion_version
    bound = declared.limits.slice_bound
    scores = evaluation.evaluate(
        _predictions(spec, _models(spec, stores, declared, trained, serving), rows),
        rows[spec.target.name],
        rows,
        slices=spec.slices,
        slice_metric=bound.metric if bound else declared.limits.primary,
        resamples=spec.bootstrap.resamples,
        confidence=spec.bootstrap.confidence,
        seed=spec.seed,
        task=task(spec),
        blocks=blocks(spec, rows),
        protected=spec.protected,
        primary=declared.limits.primary,
        fairness=declared.limits.fairness,
    )
    fairness = Fairness(
        attributes=spec.protected,
        groups=scores.groups,
        disparities=scores.disparities,
        proxies=proxies(
            rows,
            spec.protected,
            numeric=spec.features.numeric,
            categorical=spec.features.categorical,
            limit=declared.limits.proxy_auc,
            seed=spec.seed,
        ),
    )
    found = Evaluation(
        model=spec.name,
        run_id=trained.payload["run_id"],
        partition=declared.through,
        rows=scores.rows,
        contenders=tuple(
            Contender(name, serving if name == CHAMPION else None, metrics) for name, metrics in scores.metrics.items()
        ),
        comparisons=scores.comparisons,
        slices=scores.slices,
        champion_version=serving,
        data=TableRef(declared.features.table, declared.features.version, declared.through),
        task=spec.task.name,
        fairness=fairness,
        block=spec.bootstrap.block,
        blocks=scores.blocks,
    )
    resamples, confidence = spec.bootstrap.resamples, spec.bootstrap.confidence
    page = evaluation_page(
        found, scores.calibration, scores.residuals, declared.limits, resamples=resamples, confidence=confidence
    )
    return {
        **found.as_json(),
        "resamples": resamples,
        "confidence": confidence,
        "calibration": [each.as_json() for each in scores.calibration],
        "residuals": dict(scores.residuals),
        "declaration": trained.payload["declaration"],
        "report": stores.reports.write(origin, REPORT, page),
    }


def _models(
    spec: ModelSpec, stores: Stores, declared: Declaration, trained: Record, serving: str | None
) -> dict[str, Any]:
    """Candidate, the champion if there is one, and the declared baselines, fitted on the candidate's own rows."""
    models = {CANDIDATE: stores.registry.load_model(trained.payload["model_uri"])}
    if serving is not None:
        models[CHAMPION] = stores.registry.load_model(f"models:/{spec.name}/{serving}")
    if declared.limits.baselines:
        fitted = training.baselines(
            examples(spec, training_rows(spec, stores, declared)),
            numeric=spec.features.numeric,
            categorical=spec.features.categorical,
            threads=threads(spec, Task.EVALUATE_MODEL),
            task=task(spec),
            metric=declared.limits.primary,
        )
        models |= {name: fitted[name] for name in declared.limits.baselines}
    return models


def _predictions(spec: ModelSpec, models: Mapping[str, Any], rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    granted = threads(spec, Task.EVALUATE_MODEL)
    columns = {name: list(getattr(model, "feature_names_in_", spec.feature_columns)) for name, model in models.items()}
    return {name: training.predictions(model, rows[columns[name]], threads=granted) for name, model in models.items()}

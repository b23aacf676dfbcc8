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
from mlops_provider.core.evaluation import CANDIDATE, CHAMPION, PARENT, Contender, Evaluation, SegmentScore
from mlops_provider.core.fairness import Fairness
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import REPORT, Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError, NotApprovedError
from mlops_provider.steps import models as door
from mlops_provider.steps.declaration import Declaration, declared_for
from mlops_provider.steps.learning import blocks, examples, task, threads, training_rows
from mlops_provider.steps.outcomes import labelled_features
from mlops_provider.steps.segments import positions_of

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
    models = _models(spec, stores, declared, trained, serving)
    predicted = _predictions(spec, models, rows)
    scores = evaluation.evaluate(
        predicted,
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
        segments=_by_segment(spec, stores, trained, models[CANDIDATE], predicted, rows),
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
    """
    Candidate, the champion if there is one, and the declared baselines, fitted on the candidate's own rows.

    Beside a candidate of segments, its parent alone.
    """
    models = {CANDIDATE: door.candidate(stores.registry, trained)}
    if "parent" in trained.payload:
        models[PARENT] = models[CANDIDATE].parent
    if serving is not None:
        models[CHAMPION] = door.estimator(stores.registry, stores.ledger, spec.name, serving)
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


def _by_segment(
    spec: ModelSpec,
    stores: Stores,
    trained: Record,
    candidate: Any,
    predicted: Mapping[str, NDArray[np.float64]],
    rows: pd.DataFrame,
) -> tuple[SegmentScore, ...]:
    """Say who answers for each segment and how well, candidate and parent side by side; none if it has no segments."""
    if "parent" not in trained.payload:
        return ()
    decided = {
        each.payload["segment"]: each.payload["reason"] for each in map(stores.ledger.get, trained.payload["segments"])
    }
    column, numbers = rows[candidate.column], blocks(spec, rows)
    members = positions_of(rows, candidate.column)
    found = []
    for value in sorted({*decided, *members}):
        positions = members.get(value, np.empty(0, dtype=np.intp))
        found.append(
            SegmentScore(
                value=value,
                rows=len(positions),
                answered_by=value if value in candidate.children else PARENT,
                reason=decided.get(value, "The training rows hold no row of it."),
                **_side_by_side(spec, predicted, rows, positions, None if numbers is None else numbers[positions]),
            )
        )
    if missing := int(column.isna().sum()):
        found.append(SegmentScore("", missing, PARENT, "These rows name no segment."))
    return tuple(found)


def _side_by_side(
    spec: ModelSpec,
    predicted: Mapping[str, NDArray[np.float64]],
    rows: pd.DataFrame,
    positions: NDArray[np.intp],
    numbers: NDArray[np.intp] | None,
) -> dict[str, Interval]:
    """Score candidate and parent on some of the rows; nothing if these can't be scored, as those of one class can't."""
    metric = spec.gate.primary
    try:
        scores = evaluation.evaluate(
            {name: predicted[name][positions] for name in (CANDIDATE, PARENT)},
            rows[spec.target.name].to_numpy(dtype=np.float64)[positions],
            rows.iloc[positions],
            slices=(),
            slice_metric=metric,
            resamples=spec.bootstrap.resamples,
            confidence=spec.bootstrap.confidence,
            seed=spec.seed,
            task=task(spec),
            metrics=(metric,),
            blocks=numbers,
        )
    except DataRejectedError:
        return {}
    known = {
        "score": scores.metrics[CANDIDATE].get(metric),
        "parent": scores.metrics[PARENT].get(metric),
        "difference": next((each.difference for each in scores.comparisons), None),
    }
    return {name: interval for name, interval in known.items() if interval is not None}

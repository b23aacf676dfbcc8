"""What became of a month's predictions: outcomes, performance, drift, and whether to train again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlops_provider.adapters import evaluation, scoring, training
from mlops_provider.core import partitions
from mlops_provider.core.drift import DriftVerdict, judge
from mlops_provider.core.evidence import digest_of
from mlops_provider.core.fairness import Fairness
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import REPORT, Environment, Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError, PermanentError, StoreUnavailableError
from mlops_provider.steps import feedback, models
from mlops_provider.steps.chunked import drift as drift_chunks
from mlops_provider.steps.delivery import deliver_predictions
from mlops_provider.steps.learning import blocks, task, threads
from mlops_provider.steps.outcomes import record_outcomes
from mlops_provider.steps.provenance import Provenance, provenance
from mlops_provider.steps.retraining import decide_retrain

if TYPE_CHECKING:
    from mlops_provider.adapters.drift import Drift
    from mlops_provider.core.chunks import ChunkResult
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

__all__ = ["decide_retrain", "deliver_predictions", "detect_drift", "measure_performance", "record_outcomes"]

logger = logging.getLogger(__name__)

_NOT_SERVED = "No model served this month: it has no predictions."


def measure_performance(spec: ModelSpec, stores: Stores, partition: str, *, origin: Origin) -> str:
    """
    Compare a partition's predictions with its outcomes: overall, by slice and by version, with intervals.

    A partition that no model served is recorded as such. So is what the server answered in that month, if callers told
    what became of it. Earlier months of which they told something since are recorded and measured again.

    :return: Ledger ID of the performance record.
    """
    month = partitions.check(partition)
    for earlier in _told_since(spec, stores, month):
        again = replace(origin, task_id=f"{origin.task_id}:{earlier}")
        try:
            if len(feedback.outcomes_of(spec, stores, earlier)):
                record_outcomes(spec, stores, earlier, origin=again)
        except PermanentError as error:
            logger.warning("What was told of %s since is left out: %s", earlier, error)
            continue
        _measured(spec, stores, earlier, origin=again)
    return _measured(spec, stores, month, origin=origin).record_id


def _told_since(spec: ModelSpec, stores: Stores, month: str) -> list[str]:
    """Months before this one that were measured, and of which callers told something."""
    measured = {record.payload["partition"] for record in stores.ledger.history(Kind.PERFORMANCE, spec.name)}
    return feedback.months_told(spec, stores, sorted(each for each in measured if each < month))


def _measured(spec: ModelSpec, stores: Stores, month: str, *, origin: Origin) -> Record:
    read = _newest(stores, spec, month, Table.PREDICTIONS, Table.OUTCOMES, Table.FEATURES)
    posted, online = feedback.outcomes_of(spec, stores, month), feedback.online(spec, stores, month)
    told: dict[str, Any] = {"online": online} if online else {}
    if (delay := feedback.delay_hours(spec, posted)) is not None:
        told["median_delay_hours"] = delay
    inputs = _inputs(spec, stores, month, read) | told
    about = [each for each in stores.ledger.history(Kind.PERFORMANCE, spec.name) if each.payload["partition"] == month]
    if told and about and str(about[-1].key).endswith(f":{digest_of(inputs)}"):
        return about[-1]  # nothing was told since the last look
    return stores.ledger.decide_once(
        Kind.PERFORMANCE,
        spec.name,
        origin.key,
        lambda: {**_performance(spec, stores, month, read), **told},
        inputs=inputs,
        actor=origin.actor,
        as_of=spec.labels_known_at(month),
    )


def _performance(
    spec: ModelSpec, stores: Stores, month: str, read: Mapping[Table, TableRef | None]
) -> Mapping[str, Any]:
    empty: dict[str, Any] = {
        "partition": month,
        "version": None,
        "rows": 0,
        "metrics": {},
        "slices": [],
        "versions": {},
    }
    served = read[Table.PREDICTIONS]
    if served is None:
        return {**empty, "reason": _NOT_SERVED}
    of_segments = (scoring.ANSWERED_BY,) if scoring.ANSWERED_BY in stores.tables.rows(served).columns else ()
    kept = list(dict.fromkeys([*spec.keys, spec.event_time, scoring.PREDICTION, scoring.VERSION, *of_segments]))
    scored = stores.tables.read(served, columns=kept)
    version = str(scored[scoring.VERSION].mode().iloc[0])
    known = {"version": version, "predicted": len(scored), "predictions": served.as_json()}
    labels = read[Table.OUTCOMES]
    if labels is None:
        return {**empty, **known, "reason": "The outcomes of this month are not known yet."}
    rows = scored.merge(
        stores.tables.read(labels, columns=[*spec.keys, spec.target.name]), on=list(spec.keys), validate="one_to_one"
    )
    rows = _with_features(spec, stores, read[Table.FEATURES], rows)
    known |= {"outcomes": labels.as_json(), "rows": len(rows), "coverage": len(rows) / len(scored)}
    try:
        # Of a version without segments the column is empty.
        slices = (*spec.slices, *(column for column in of_segments if rows[column].notna().all()))
        overall = _scored(spec, rows, slices=slices, protected=spec.protected)
    except DataRejectedError as error:
        return {**empty, **known, "reason": str(error)}
    of_version = {str(name): part for name, part in rows.groupby(scoring.VERSION)}
    return {
        **empty,
        **known,
        "primary": spec.gate.primary,
        "metrics": _as_json(overall.metrics[scoring.PREDICTION]),
        "slices": [each.as_json() for each in overall.slices],
        "fairness": Fairness(spec.protected, overall.groups, overall.disparities).as_json(),
        "versions": {
            name: _of_version(spec, part, overall, alone=len(of_version) == 1) for name, part in of_version.items()
        },
        "expected": _as_json(provenance(stores.ledger, spec.name, version).expected),
        "resamples": spec.bootstrap.resamples,
        "confidence": spec.bootstrap.confidence,
        "block": spec.bootstrap.block,
        "blocks": overall.blocks,
    }


def _scored(
    spec: ModelSpec, rows: pd.DataFrame, *, slices: tuple[str, ...] = (), protected: tuple[str, ...] = ()
) -> evaluation.Scores:
    return evaluation.evaluate(
        {scoring.PREDICTION: rows[scoring.PREDICTION]},
        rows[spec.target.name],
        rows,
        slices=slices,
        slice_metric=spec.gate.primary,
        resamples=spec.bootstrap.resamples,
        confidence=spec.bootstrap.confidence,
        seed=spec.seed,
        subject=scoring.PREDICTION,
        task=task(spec),
        blocks=blocks(spec, rows),
        protected=protected,
        primary=spec.gate.primary,
        fairness=spec.gate_policy.fairness,
    )


def _of_version(spec: ModelSpec, rows: pd.DataFrame, overall: evaluation.Scores, *, alone: bool) -> dict[str, Any]:
    try:
        scores = overall if alone else _scored(spec, rows)
    except DataRejectedError as error:
        return {"rows": len(rows), "metrics": {}, "reason": str(error)}
    return {"rows": len(rows), "metrics": _as_json(scores.metrics[scoring.PREDICTION])}


def _with_features(spec: ModelSpec, stores: Stores, features: TableRef | None, rows: pd.DataFrame) -> pd.DataFrame:
    """Add what slices, groups and blocks are made of; keys and event time are there already."""
    block = (spec.bootstrap.block,) if spec.bootstrap.block in spec.kept_columns else ()
    missing = [column for column in dict.fromkeys([*spec.slices, *spec.protected, *block]) if column not in rows]
    if not missing or features is None:
        return rows
    columns = stores.tables.read(features, columns=[*spec.keys, *missing])
    return rows.merge(columns, on=list(spec.keys), how="left", validate="one_to_one")


def detect_drift(
    spec: ModelSpec,
    stores: Stores,
    partition: str,
    *,
    workspace: str | None = None,
    chunks: Sequence[ChunkResult] | None = None,
    origin: Origin,
) -> str:
    """
    Compare a partition's features with those that the version which served it was trained on.

    Its predictions are compared with the ones that version makes on the partition of its gate, which it was not
    trained on either. The Evidently report goes to the reports, a snapshot to an Evidently workspace.

    :param workspace: Folder of the Evidently workspace; by default ``MLOPS_EVIDENTLY_WORKSPACE``; none if neither.
    :param chunks: What mapped tasks sampled; without them the samples are taken here.
    :return: Ledger ID of the drift record.
    :raises DataRejectedError: The partition has no features. Not retried.
    :raises StoreUnavailableError: The workspace cannot be written. Retried.
    """
    month = partitions.check(partition)
    folder = workspace or os.environ.get(Environment.EVIDENTLY_WORKSPACE)
    # What was planned is measured, also if the month has been replaced since.
    planned = [each.chunk for each in chunks or ()] or drift_chunks.plan(spec, stores, month, origin=origin)
    tables = drift_chunks.tables(planned)
    read = {Table.PREDICTIONS: tables.get("predictions"), Table.FEATURES: tables.get("current")}
    record = stores.ledger.decide_once(
        Kind.DRIFT,
        spec.name,
        origin.key,
        lambda: _drift(
            spec,
            stores,
            month,
            tables,
            drift_chunks.samples(spec, stores, planned, chunks),
            workspace=Path(folder) if folder else None,
            origin=origin,
        ),
        inputs=_inputs(spec, stores, month, read),
        actor=origin.actor,
        as_of=spec.labels_known_at(month),
    )
    if chunks:
        drift_chunks.clear(stores, chunks)
    return record.record_id


def _drift(
    spec: ModelSpec,
    stores: Stores,
    month: str,
    tables: Mapping[str, TableRef],
    samples: Mapping[str, pd.DataFrame],
    *,
    workspace: Path | None,
    origin: Origin,
) -> Mapping[str, Any]:
    if not samples:
        unserved = DriftVerdict(columns=(), alarm=False, reasons=(), warnings=(_NOT_SERVED,))
        return {"partition": month, "version": None, "rows": 0, **unserved.as_json(), "drifted": [], "report": None}
    # Evidently takes seconds to import: only for what there is to compare.
    from mlops_provider.adapters import drift as drifting

    features, served = tables["current"], tables["predictions"]
    version = drift_chunks.serving_version(stores, served)
    made = provenance(stores.ledger, spec.name, version)

    policy = spec.drift_policy
    numeric = [column for column in spec.features.numeric if column in made.columns]
    categorical = [column for column in spec.features.categorical if column in made.columns]
    columns = [*numeric, *categorical]
    found = drifting.measure(
        samples["reference"][columns],
        samples["current"][columns],
        policy,
        numeric=numeric,
        categorical=categorical,
        predictions=(
            _gate_predictions(spec, stores, made, samples["gate"]),
            samples["predictions"][scoring.PREDICTION].to_numpy(),
        ),
        seed=spec.seed,
        as_of=spec.labels_known_at(month),
        name=f"{month}, version {version}",
        title=f"{spec.name}: {month} against what version {version} was trained on, {_span(made.trained_on)}",
        labels={"partition": month, "version": version},
    )
    verdict = judge(policy, found.columns, rows=found.rows)
    return {
        "partition": month,
        "version": version,
        "rows": found.rows,
        **verdict.as_json(),
        "drifted": list(verdict.drifted),
        "features": features.as_json(),
        "reference": {**made.features.as_json(), "partitions": list(made.trained_on)},
        "predictions": served.as_json(),
        "report": stores.reports.write(origin, REPORT, found.html),
        "snapshot": None if workspace is None else _log_snapshot(workspace, spec.name, found, month),
    }


def _span(months: Sequence[str]) -> str:
    return months[0] if len(months) == 1 else f"{months[0]} to {months[-1]}"


def _gate_predictions(spec: ModelSpec, stores: Stores, made: Provenance, rows: pd.DataFrame) -> Any:
    """What the version predicts on a sample of the partition of its gate, (n_rows,)."""
    model = models.estimator(stores.registry, stores.ledger, spec.name, made.version)
    return training.predictions(model, rows[list(made.columns)], threads=threads(spec, Task.DETECT_DRIFT))


def _log_snapshot(workspace: Path, project: str, found: Drift, month: str) -> str:
    from mlops_provider.adapters import drift as drifting

    try:
        return str(drifting.log_snapshot(workspace, project, found, key=month))
    except OSError as error:
        raise StoreUnavailableError(
            f"The Evidently workspace {workspace} cannot be written: {error.strerror or error}. "
            f"Free space there, or choose another folder in {Environment.EVIDENTLY_WORKSPACE}."
        ) from error


def _newest(stores: Stores, spec: ModelSpec, month: str, *tables: Table) -> dict[Table, TableRef | None]:
    """Newest version of a month in each of *tables*; None if the month is not in it."""
    found: dict[Table, TableRef | None] = {}
    for table in tables:
        uri = stores.tables.uri(spec.name, table)
        version = stores.tables.version(uri)
        there = version is not None and month in stores.tables.partitions(uri)
        found[table] = TableRef(uri, version, month) if version is not None and there else None
    return found


def _inputs(
    spec: ModelSpec, stores: Stores, month: str, read: Mapping[Table, TableRef | None]
) -> dict[str, str | None]:
    """What a measurement of a month depends on; the version that served, and what made it, follow from predictions."""
    held = {str(table): stores.tables.fingerprint(ref) if ref else None for table, ref in read.items()}
    return {"partition": month, "spec": spec.digest, **held}


def _as_json(metrics: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.as_json() for name, interval in metrics.items()}

"""Live performance: what a rollout's versions predicted, joined with what callers or tables told of it since."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlops_provider.adapters import live, scoring, tasks
from mlops_provider.core.names import CHECK_REQUEST, Arm, Environment, Kind, Table
from mlops_provider.core.performance import Met, Performance
from mlops_provider.core.references import TableRef
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import SourceError
from mlops_provider.steps import feedback
from mlops_provider.steps.delivery import deliver_predictions

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.performance import PerformanceGuard
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

logger = logging.getLogger(__name__)

_CLOCKS = timedelta(minutes=5)
"""How far the clocks of servers and ledger may differ."""
_ARMS = (Arm.SPLIT, Arm.SHADOW)
"""Arms that a rollout judges by: not what asked for a version, nor what the fallback answered."""
_ROW = ["request_id", "row"]


def deliver(spec: ModelSpec, stores: Stores, *, origin: Origin) -> None:
    """Bring what the servers sealed to the tables, where this process can see it; else others do."""
    if os.environ.get(Environment.SPOOL_URI) or os.environ.get(Environment.SPOOL_DIR):
        deliver_predictions(spec, stores, origin=origin)
    else:
        logger.info("Neither %s nor %s is set: outcomes count once another task has delivered them.",
                    Environment.SPOOL_URI, Environment.SPOOL_DIR)  # fmt: skip


def performance(
    spec: ModelSpec, stores: Stores, guard: PerformanceGuard, version: str, champion: str | None
) -> Performance:
    """
    Measure *version* in the present step, and beside the champion in the newest step in which callers met both.

    Only rows of one step are compared: the share of the versions changes with the step, and the times may, too. There
    both answer, or one scores in the shadow of the other. A prediction and its outcome are joined as
    :func:`mlops_provider.steps.feedback.online` does, and by key also with what was recorded in the outcomes table
    since the rollout began. An outcome that was told of an entity counts once, however often that was asked about.

    :param version: Version on trial.
    :param champion: The version it is compared with.
    """
    under_way = _under_way(stores.ledger.history(Kind.TRAFFIC, spec.name), version)
    if not under_way:
        return Performance()
    steps = [_traffic(record) for record in under_way]
    both = [place for place, step in enumerate(steps) if _answers(step, version) and _answers(step, champion)]
    known = _known(spec, stores, under_way[0])
    versions = [version, champion] if champion else [version]
    log = _predicted(spec, stores, known, under_way[both[-1] if both else -1 :], versions)
    if log.empty:
        return Performance(met=Met() if both else None)
    labelled = _once(feedback.joined(log, known), known)
    of = {step.generation: labelled[labelled["generation"] == step.generation] for step in steps}
    return live.performance(
        of[steps[-1].generation],
        of[steps[both[-1]].generation] if both else None,
        (version, champion),
        guard.metric,
        task=tasks.TASKS[spec.task.name],
        resamples=spec.bootstrap.resamples,
        seed=spec.seed,
    )


def _once(labelled: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Of the rows that share what was told of their entity, the newest of each version in each step."""
    asked = known.loc[known["request_id"].notna(), _ROW].astype({"row": "int64"})
    own = pd.MultiIndex.from_frame(labelled[_ROW]).isin(pd.MultiIndex.from_frame(asked))
    again = labelled.duplicated(["keys", scoring.VERSION, "generation"], keep="last")
    return labelled[own | ~again]


def _traffic(record: Record) -> Traffic:
    return Traffic.from_json(record.payload)


def _answers(traffic: Traffic, version: str | None) -> bool:
    """Whether a version's predictions of callers' rows are in the log."""
    return version is not None and (traffic.split.get(version, 0) > 0 or version in traffic.shadow)


def _under_way(records: Sequence[Record], version: str) -> list[Record]:
    """Generations of the rollout that has not settled, oldest first."""
    found: list[Record] = []
    for record in records:
        traffic = _traffic(record)
        found = [] if traffic.settled else [*found, *([record] if version in traffic.split else [])]
    return found


def _known(spec: ModelSpec, stores: Stores, first: Record) -> pd.DataFrame:
    """Outcomes that were told, or recorded in the outcomes table, since the *first* generation of a rollout."""
    told = feedback.told(spec, stores, since=datetime.fromisoformat(first.recorded_at) - _CLOCKS)
    newer = [each for each in stores.ledger.history(Kind.OUTCOMES, spec.name) if each.seq > first.seq]
    newest = {each.payload["partition"]: each for each in newer}
    recorded = [_recorded(spec, stores, each) for each in newest.values()]
    # What was told of an entity wins over what the source says: somebody looked at that very row.
    known = pd.concat([part for part in (*recorded, told) if len(part)] or [told], ignore_index=True)
    return known.drop_duplicates([*_ROW, "keys"], keep="last")


def _recorded(spec: ModelSpec, stores: Stores, record: Record) -> pd.DataFrame:
    """Outcomes of the table, under all the names by which the log may know their entities."""
    keys, pseudonyms = list(spec.keys), feedback.pseudonyms_of(spec)
    rows = stores.tables.read(TableRef.from_json(record.payload), columns=[*keys, spec.target.name])
    named = [
        (identity, outcome)
        for cells, outcome in zip(rows[keys].to_dict(orient="records"), rows[spec.target.name], strict=True)
        for identity in pseudonyms.identities(keys, {str(name): cell for name, cell in cells.items()})
    ]
    found = pd.DataFrame(named, columns=["keys", "outcome"]).astype({"keys": "string", "outcome": "float64"})
    empty = {"request_id": pd.array([pd.NA] * len(found), "string"), "row": pd.array([pd.NA] * len(found), "Int64")}
    return found.assign(**empty, observed_at=pd.Timestamp(record.recorded_at))


def _predicted(
    spec: ModelSpec, stores: Stores, known: pd.DataFrame, under_way: Sequence[Record], versions: Sequence[str]
) -> pd.DataFrame:
    """
    Read what *versions* predicted in the newest generations of a rollout, of rows whose outcomes are known; only these
    are kept in memory.

    :return: ``request_id``, ``row``, ``keys``, ``prediction``, ``version``, ``generation``, ``answered_at``.
    """
    columns = [*_ROW, "arm", scoring.PREDICTION, scoring.VERSION, "generation", "answered_at"]
    uri = stores.tables.uri(spec.name, Table.PREDICTION_LOG)
    if known.empty or stores.tables.version(uri) is None:
        return pd.DataFrame({name: [] for name in columns})
    starts = [datetime.fromisoformat(record.recorded_at) for record in under_way]
    since = ("answered_at", starts[0] - _CLOCKS)
    names = {column: known[column].dropna().unique().tolist() for column in ("request_id", "keys")}
    try:
        found = stores.tables.read(uri, columns=[*columns, "keys"], since=since, among=names)
    except SourceError:  # no request ever named its keys
        del names["keys"]
        found = stores.tables.read(uri, columns=columns, since=since, among=names).assign(keys=None)
    generations = np.array([record.payload["generation"] for record in under_way])
    # Containers on SageMaker know of no generations; the moment tells.
    place = np.searchsorted(pd.DatetimeIndex(starts).as_unit("ns"), found["answered_at"], side="right") - 1
    by_time = np.where(place < 0, 0, generations[place])
    found["generation"] = np.where(found["generation"] > 0, found["generation"], by_time)
    counted = (
        found["arm"].isin(_ARMS)
        & found[scoring.VERSION].isin(versions)
        & found["generation"].isin(generations)
        & ~found["request_id"].str.startswith(CHECK_REQUEST)
    )
    ordered = found[counted].sort_values("answered_at", kind="stable")
    return ordered.drop_duplicates([*_ROW, scoring.VERSION, "generation"], keep="last").drop(columns="arm")

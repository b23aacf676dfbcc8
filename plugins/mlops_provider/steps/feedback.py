"""What callers told of predictions: joined with predictions by request or key, in the month it belongs to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlops_provider.adapters import evaluation, scoring, tasks
from mlops_provider.core import partitions
from mlops_provider.core.names import Arm, Environment, Table
from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.exceptions import DataRejectedError, SourceError

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

_ENTITY = "keys"
_ROW = ["request_id", "row"]
_COUNTED = (Arm.SPLIT, Arm.PINNED)
"""Arms whose rows callers were answered with by a model; a fallback is no model's, a shadow's answer nobody saw."""


def told(spec: ModelSpec, stores: Stores, *, since: datetime | None = None) -> pd.DataFrame:
    """
    Read the outcome log: what is known of each entity or row now, which is what was observed last.

    :param since: Moment from which on it was received; all of it by default.
    :return: ``request_id``, ``row``, ``keys``, ``outcome``, ``observed_at``; no rows if nobody told anything.
    """
    uri = stores.tables.uri(spec.name, Table.OUTCOME_LOG)
    columns = [*_ROW, _ENTITY, "outcome", "observed_at", "received_at"]
    if stores.tables.version(uri) is None:
        return pd.DataFrame({name: [] for name in columns[:-1]})
    received = ("received_at", since) if since else None
    found = stores.tables.read(uri, columns=columns, since=received).sort_values(
        ["observed_at", "received_at"], kind="stable"
    )
    return found.drop_duplicates([*_ROW, _ENTITY], keep="last").drop(columns="received_at").reset_index(drop=True)


def answered(spec: ModelSpec, stores: Stores) -> pd.DataFrame:
    """
    Read the prediction log, as far as callers were answered by a model.

    :return: ``request_id``, ``row``, ``keys``, ``prediction``, ``version``, ``answered_at``; a request that was sent
        again under its name counts with its last answer.
    """
    uri = stores.tables.uri(spec.name, Table.PREDICTION_LOG)
    version = stores.tables.version(uri)
    columns = [*_ROW, "arm", scoring.PREDICTION, scoring.VERSION, "answered_at"]
    if version is None:
        return pd.DataFrame({name: [] for name in [*columns, _ENTITY]}).astype({"answered_at": "datetime64[us, UTC]"})
    try:
        found = stores.tables.read(uri, columns=[*columns, _ENTITY])
    except SourceError:  # no request ever named its keys
        found = stores.tables.read(uri, columns=columns).assign(**{_ENTITY: None})
    counted = found[found["arm"].isin(_COUNTED)].sort_values("answered_at", kind="stable")
    return counted.drop_duplicates(_ROW, keep="last").drop(columns="arm").reset_index(drop=True)


def by_entity(spec: ModelSpec, stores: Stores, known: pd.DataFrame) -> pd.DataFrame:
    """
    Say of each outcome which entity it is about: it names its keys, or a request that did.

    :param known: What was told.
    :return: ``keys``, ``outcome``, ``observed_at``, one row per entity; of two, what was observed last.
    """
    columns = [_ENTITY, "outcome", "observed_at"]
    named = known[known[_ENTITY].notna()]
    asked = _by_request(known)
    if len(asked):
        log = answered(spec, stores)
        named = pd.concat([named[columns], asked.merge(log[log[_ENTITY].notna()], on=_ROW)[columns]])
    ordered = named[columns].sort_values("observed_at", kind="stable")
    return ordered.drop_duplicates(_ENTITY, keep="last").reset_index(drop=True)


def outcomes_of(spec: ModelSpec, stores: Stores, month: str) -> pd.DataFrame:
    """
    Give what was told of the rows of a month's features, whenever that was.

    :return: The keys as the features have them, the target, ``observed_at`` and the event time; no rows if nothing was.
    """
    found = by_entity(spec, stores, told(spec, stores))
    features = stores.tables.uri(spec.name, Table.FEATURES)
    columns = [*dict.fromkeys([*spec.keys, spec.event_time])]
    if found.empty or stores.tables.version(features) is None:
        return pd.DataFrame({name: [] for name in [*columns, spec.target.name, "observed_at"]})
    rows = stores.tables.read(features, columns=columns, partitions=[month])
    known = found.set_index(_ENTITY)
    pseudonyms = pseudonyms_of(spec)
    places = {}
    for place, cells in enumerate(rows[list(spec.keys)].to_dict(orient="records")):
        # Of an outcome under an older secret and one under a newer, the newer secret's counts.
        for identity in pseudonyms.identities(spec.keys, {str(name): cell for name, cell in cells.items()}):
            if identity in known.index:
                places[place] = identity
                break
    chosen = known.loc[list(places.values())]
    whole = rows.iloc[list(places)].reset_index(drop=True)
    return whole.assign(
        **{spec.target.name: chosen["outcome"].to_numpy(), "observed_at": chosen["observed_at"].to_numpy()}
    )


def merged(spec: ModelSpec, source: pd.DataFrame | None, posted: pd.DataFrame) -> pd.DataFrame:
    """Put what was told over what the source says: somebody looked at that very row."""
    columns = [*spec.keys, spec.target.name]
    if posted.empty:
        return source if source is not None else posted[columns]
    if source is None or source.empty:
        return posted[columns]
    kept = source.merge(posted[list(spec.keys)], on=list(spec.keys), how="left", indicator="_told")
    rest = kept[kept["_told"] == "left_only"][columns]
    both = pd.concat([rest, posted[columns]], ignore_index=True)
    whole = (both[spec.target.name] == both[spec.target.name].round()).all()
    integral = pd.api.types.is_integer_dtype(source[spec.target.name]) and whole
    return both.astype({spec.target.name: source[spec.target.name].dtype}) if integral else both


def online(spec: ModelSpec, stores: Stores, month: str) -> Mapping[str, Any] | None:
    """
    Measure what the server answered in a month by what was told of it since.

    :return: ``answered`` and ``rows`` (with an outcome), ``coverage`` 0-1, ``median_delay_hours`` from answer to
        observation, ``metrics`` and ``versions`` (each: ``rows``, ``metrics``); None if nobody ever told anything.
    """
    known = told(spec, stores)
    if known.empty:
        return None
    log = answered(spec, stores)
    log = log[(log["answered_at"] >= partitions.start(month)) & (log["answered_at"] < partitions.end(month))]
    if log.empty:
        return None
    labelled = joined(log, known)
    delays = (labelled["observed_at"] - labelled["answered_at"]).dt.total_seconds() / 3600
    return {
        "answered": len(log),
        "rows": len(labelled),
        "coverage": len(labelled) / len(log),
        "median_delay_hours": round(float(delays.median()), 3) if len(labelled) else None,
        **_scored(spec, labelled),
        "versions": {
            str(version): {"rows": len(rows), **_scored(spec, rows)}
            for version, rows in labelled.groupby(scoring.VERSION)
        },
    }


def joined(log: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Rows of the log with their outcomes; one that names the request wins over one that names the keys."""
    columns = ["outcome", "observed_at"]
    asked = log.merge(_by_request(known), on=_ROW)
    rest = log[~pd.MultiIndex.from_frame(log[_ROW]).isin(pd.MultiIndex.from_frame(asked[_ROW]))]
    named = rest[rest[_ENTITY].notna()].merge(known[known[_ENTITY].notna()][[_ENTITY, *columns]], on=_ENTITY)
    return pd.concat([part for part in (asked, named) if len(part)] or [asked], ignore_index=True)


def _by_request(known: pd.DataFrame) -> pd.DataFrame:
    """What was told under a request's name: ``request_id``, ``row``, ``outcome``, ``observed_at``."""
    named = known[known["request_id"].notna()]
    return named[[*_ROW, "outcome", "observed_at"]].astype({"row": "int64"})


def _scored(spec: ModelSpec, rows: pd.DataFrame) -> dict[str, Any]:
    """Metrics of the rows, or why there are none."""
    if rows.empty:
        return {"metrics": {}}
    try:
        found = evaluation.evaluate(
            {scoring.PREDICTION: rows[scoring.PREDICTION]},
            rows["outcome"],
            rows,
            slices=(),
            slice_metric=spec.gate.primary,
            resamples=spec.bootstrap.resamples,
            confidence=spec.bootstrap.confidence,
            seed=spec.seed,
            subject=scoring.PREDICTION,
            task=tasks.TASKS[spec.task.name],
        )
    except DataRejectedError as error:
        return {"metrics": {}, "reason": str(error)}
    return {"metrics": {name: score.as_json() for name, score in found.metrics[scoring.PREDICTION].items()}}


def delay_hours(spec: ModelSpec, posted: pd.DataFrame) -> float | None:
    """Median time from a row's event to the observation of its outcome; None if none was told."""
    if posted.empty:
        return None
    delays = pd.to_datetime(posted["observed_at"], utc=True) - pd.to_datetime(posted[spec.event_time], utc=True)
    return round(float(delays.dt.total_seconds().median()) / 3600, 3)


def months_told(spec: ModelSpec, stores: Stores, months: Sequence[str]) -> list[str]:
    """Those of *months* that something was told of: rows of their features, or answers of the server in them."""
    if told(spec, stores).empty:
        return []
    return [
        month
        for month in months
        if len(outcomes_of(spec, stores, month)) or (online(spec, stores, month) or {"rows": 0})["rows"]
    ]


def pseudonyms_of(spec: ModelSpec) -> Pseudonyms:
    """
    Know entities by what the server's logs call them.

    :raises ConfigurationError: Pseudonyms are declared, and there is no secret. Not retried.
    """
    return Pseudonyms.of(spec.serving.pseudonymise, os.environ.get(Environment.PSEUDONYM_KEYS, ""))

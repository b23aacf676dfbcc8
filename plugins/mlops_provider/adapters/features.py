"""Hold a use case's frames to what its ``model.yaml`` declares, before anything is built on them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlops_provider.exceptions import DataRejectedError, SpecError

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec

_LISTED = 10
"""Problems listed at most; the rest is counted."""


def frame_of(returned: Any, function: str) -> pd.DataFrame:
    """
    Return what a use case's function gave, if it is a frame.

    :param function: Name of the function, for the message.
    :raises SpecError: It is something else. Not retried.
    """
    if not isinstance(returned, pd.DataFrame):
        raise SpecError(f"{function} returned {type(returned).__name__}, expected a pandas DataFrame.")
    return returned


def checked_features(
    features: pd.DataFrame, spec: ModelSpec, partition: str, *, rows: int, start: datetime, end: datetime
) -> pd.DataFrame:
    """
    Return keys, event time, protected columns and features, in this order and in the same types for every month.

    Numeric features become ``float64`` (so that a month without gaps and one with gaps look alike), categorical ones
    text; other columns are left out.

    :param features: What ``features`` returned, shape (n_rows, n_columns).
    :param rows: Rows it must have: one per clean row.
    :param start: First event time that belongs to the partition.
    :param end: First event time after it.
    :raises DataRejectedError: It is not what is declared; up to ten problems, the rest counted. Not retried.
    """
    problems = _problems(features, spec, rows=rows, start=start, end=end)
    if problems:
        listed = "; ".join(problems[:_LISTED]) + (f"; and {len(problems) - _LISTED} more" * (len(problems) > _LISTED))
        raise DataRejectedError(f"The features of {spec.name} {partition} are not as declared: {listed}.")
    kept = features[list(spec.kept_columns)].astype(dict.fromkeys(spec.features.numeric, "float64"), copy=False)
    kept.index = pd.RangeIndex(len(kept))
    return kept


def _problems(features: pd.DataFrame, spec: ModelSpec, *, rows: int, start: datetime, end: datetime) -> list[str]:
    if missing := [column for column in spec.kept_columns if column not in features]:
        return [f"column {column!r} is missing" for column in missing]
    problems: list[str] = [] if len(features) == rows else [f"{len(features):,} rows for {rows:,} clean ones"]
    problems += [
        f"{column!r} is {features[column].dtype}, declared as numeric"
        for column in spec.features.numeric
        if not pd.api.types.is_numeric_dtype(features[column])
    ]
    problems += [
        f"{column!r} is {features[column].dtype}, declared as categorical, which is text"
        for column in spec.features.categorical
        if not _is_text(features[column])
    ]
    problems += [
        f"{column!r} is {features[column].dtype}, declared as protected, which is text"
        for column in spec.protected
        if column not in spec.features.categorical and not _is_text(features[column])
    ]
    if doubled := int(features.duplicated(list(spec.keys)).sum()):
        problems.append(f"{doubled:,} rows repeat the key of another ({', '.join(spec.keys)})")
    return problems + _time_problems(features[spec.event_time], spec.event_time, start, end)


def _time_problems(times: pd.Series[Any], name: str, start: datetime, end: datetime) -> list[str]:
    if not isinstance(times.dtype, pd.DatetimeTZDtype):
        return [f"{name!r} is {times.dtype}, expected a time with a time zone"]
    outside = int((~((times >= start) & (times < end))).sum())
    return [f"{outside:,} rows have a {name!r} outside the month, or none"] if outside else []


def _is_text(column: pd.Series[Any]) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty")

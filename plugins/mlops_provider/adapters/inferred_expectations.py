"""What a first snapshot looks like, as expectations that a person is to read before they count as reviewed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import yaml

from mlops_provider.adapters.expectations import Expectation

MOST_VALUES = 30
"""Different values of a column that are listed."""
_DECIMALS = 2


def infer(frame: pd.DataFrame, *, keys: Sequence[str], event_time: str) -> tuple[Expectation, ...]:
    """
    Say what *frame* looks like.

    A month of another shape is refused; so is one in which more than 1 % of the keys repeat, fewer are set
    apart. Numbers far outside what was seen (by more than its whole width) are set apart. New categories and missing
    values are only said: what one snapshot did not have is no error yet.

    :param frame: Landed rows, of one month or more, shape (n_rows, n_columns).
    :param keys: Columns that identify a row.
    :param event_time: Column with the time of the prediction.
    """
    known = [str(column) for column in frame if frame[column].notna().any()]
    described = [column for column in known if column not in keys and column != event_time]
    return (
        *_shape(frame, known),
        *_rows(keys, event_time),
        *(found for column in described for found in _values(frame[column], column)),
    )


def as_yaml(expectations: Sequence[Expectation], *, about: str) -> str:
    """
    Return the text of an ``expectations.yaml`` that nobody has reviewed.

    :param about: What it was inferred from, in a few words.
    """
    lines = [
        f"# Inferred from {about}.",
        "# Nobody has read it yet. Read each line: is it so by nature, or by chance? Mend it, then sign it here:",
        "#   reviewed: {by: your name, at: 2026-01-31}",
        "# Until then reports, the ledger and `mlops doctor` call it not reviewed.",
        "# Severities: block refuses the month, quarantine sets rows apart, warn only says so.",
        "reviewed: false",
        "",
        "expectations:",
    ]
    for each in expectations:
        arguments = yaml.safe_dump(
            each.kwargs, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True
        )
        lines += [
            f"  - type: {each.type}",
            f"    kwargs: {arguments.strip()}",
            f"    severity: {each.severity}",
            f"    meaning: {_text(each.meaning)}",
        ]
    return "\n".join(lines) + "\n"


def _text(meaning: str) -> str:
    written: str = yaml.safe_dump(meaning, width=math.inf, allow_unicode=True)
    return written.removesuffix("...\n").strip()


def _shape(frame: pd.DataFrame, known: Sequence[str]) -> Iterator[Expectation]:
    yield Expectation(
        type="expect_table_row_count_to_be_between",
        kwargs={"min_value": 1},
        severity="block",
        meaning="The month has rows",
    )
    yield Expectation(
        type="expect_table_columns_to_match_set",
        kwargs={"column_set": list(known), "exact_match": False},
        severity="block",
        meaning="Every column that was there is there",
    )
    for column in known:
        type_, said = _type(frame[column])
        yield Expectation(
            type="expect_column_values_to_be_of_type",
            kwargs={"column": column, "type_": type_},
            severity="block",
            meaning=f"{column} is {said}",
        )


def _type(values: pd.Series[Any]) -> tuple[str, str]:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return "Timestamp", "a time with a time zone"
    if pd.api.types.is_numeric_dtype(values):
        name = str(values.dtype)
        return name, "a whole number" if name.startswith(("int", "uint")) else "a number"
    return "str", "text"


def _rows(keys: Sequence[str], event_time: str) -> Iterator[Expectation]:
    listed = ", ".join(keys)
    unique = (
        ("expect_column_values_to_be_unique", {"column": keys[0]})
        if len(keys) == 1
        else ("expect_compound_columns_to_be_unique", {"column_list": list(keys)})
    )
    yield Expectation(
        type=unique[0],
        kwargs={**unique[1], "mostly": 0.99},
        severity="quarantine",
        meaning=f"No two rows share their {listed}",
    )
    for column in dict.fromkeys([*keys, event_time]):
        yield Expectation(
            type="expect_column_values_to_not_be_null",
            kwargs={"column": column, "mostly": 0.99},
            severity="quarantine",
            meaning=f"Every row has its {column}",
        )


def _values(values: pd.Series[Any], column: str) -> Iterator[Expectation]:
    known = values.dropna()
    missing = 1 - len(known) / len(values)
    if missing < 0.5:
        mostly = math.floor(100 * (1 - missing) * 0.95) / 100
        yield Expectation(
            type="expect_column_values_to_not_be_null",
            kwargs={"column": column, "mostly": mostly},
            severity="warn",
            meaning=f"{column} is known in {mostly:.0%} of the rows",
        )
    if known.nunique() < 2:
        return  # what it may be cannot be told from one value
    if pd.api.types.is_numeric_dtype(values):
        low, high = _limits(float(known.min()), float(known.max()))
        yield Expectation(
            type="expect_column_values_to_be_between",
            kwargs={"column": column, "min_value": low, "max_value": high},
            severity="quarantine",
            meaning=f"{column} is {low:,g} to {high:,g}",
        )
    elif known.map(lambda value: isinstance(value, str)).all() and known.nunique() <= MOST_VALUES:
        yield Expectation(
            type="expect_column_values_to_be_in_set",
            kwargs={"column": column, "value_set": sorted(known.unique()), "mostly": 0.98},
            severity="warn",
            meaning=f"{column} has only values that were seen",
        )


def _limits(low: float, high: float) -> tuple[float, float]:
    """Widen a range by its own width on either side, to round numbers; what was never negative stays so."""
    if low >= 0 and high <= 1:
        return 0, 1
    width = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(width)) / _DECIMALS
    wide = math.floor((low - width) / step) * step, math.ceil((high + width) / step) * step
    lowest, highest = (int(limit) if limit == round(limit) else round(limit, 9) for limit in wide)
    return (max(lowest, 0) if low >= 0 else lowest), (min(highest, 0) if high <= 0 else highest)

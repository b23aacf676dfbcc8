"""Months, the partitions of every table, written ``YYYY-MM``; all times are UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from mlops_provider.exceptions import MissingPartitionError

_MONTH = re.compile(r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])")


def check(key: str | None) -> str:
    """
    Return *key* if it is a month.

    :raises MissingPartitionError: It is missing or something else. Not retried.
    """
    if not key:
        raise MissingPartitionError(
            "This run has no partition key. It works on one month at a time: trigger it with a partition key "
            "such as 2013-01."
        )
    if not _MONTH.fullmatch(key):
        raise MissingPartitionError(
            f"The partition key {key!r} is not a month: trigger the run with a key written YYYY-MM, such as 2013-01."
        )
    return key


def following(key: str, count: int = 1) -> str:
    """
    Return the month *count* months after *key*.

    :raises ValueError: The result is outside the years 1 to 9999.
    """
    year, month = divmod(_index(key) + count, 12)
    if not 1 <= year <= 9999:
        raise ValueError(f"{count} months from {key} is outside the years 1 to 9999.")
    return f"{year:04d}-{month + 1:02d}"


def previous(key: str, count: int = 1) -> str:
    """Return the month *count* months before *key*."""
    return following(key, -count)


def between(first: str, last: str) -> list[str]:
    """Return every month from *first* to *last*, both included; none if *last* is earlier."""
    return [following(first, count) for count in range(_index(last) - _index(first) + 1)]


def start(key: str) -> datetime:
    """Return the first instant of the month."""
    year, month = divmod(_index(key), 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def end(key: str) -> datetime:
    """Return the first instant after the month."""
    return start(following(key))


def labels_known_at(key: str, label_lag_days: int) -> datetime:
    """Return when the labels of the whole month are known: *label_lag_days* days after its end."""
    return end(key) + timedelta(days=label_lag_days)


def _index(key: str) -> int:
    year, month = check(key).split("-")
    return int(year) * 12 + int(month) - 1

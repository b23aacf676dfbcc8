"""From drift scores to one answer: is this month different enough to raise an alarm?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlops_provider.core.metrics import apart
from mlops_provider.core.payload import Payload

LARGEST_CATEGORICAL = 0.83
"""Largest Jensen-Shannon distance there is, the root of ln 2, rounded down."""


@dataclass(frozen=True, slots=True)
class ColumnDrift(Payload):
    """
    How far one column moved from the reference.

    :param method: Name of the distance, as Evidently writes it.
    :param score: The distance; more is further.
    :param limit: Score from which the column counts as drifted.
    :param seasonal: The column moves with the season: beyond the limit it only warns.
    """

    column: str
    method: str
    score: float
    limit: float
    seasonal: bool

    @property
    def drifted(self) -> bool:
        """The score reached its limit."""
        return self.score >= self.limit


@dataclass(frozen=True, slots=True)
class DriftPolicy(Payload):
    """
    When drift is an alarm.

    :param limit: Score from which a column of numbers counts as drifted, in standard deviations of the reference.
    :param seasonal: Columns that move with the season.
    :param seasonal_limit: Score from which even a seasonal column counts: no season explains it. None: never.
    :param alarm_share: Share of the columns that must count for an alarm, 0-1; 0 means one is enough.
    :param sample_rows: Rows compared at most, so that the cost stays flat.
    :param minimum_rows: Rows below which nothing is judged.
    :param categorical_limit: Score from which a column of categories counts as drifted; the distance ends at 0.83.
    """

    limit: float
    seasonal: tuple[str, ...]
    seasonal_limit: float | None
    alarm_share: float
    sample_rows: int
    minimum_rows: int
    categorical_limit: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.categorical_limit <= LARGEST_CATEGORICAL:
            raise ValueError(
                f"the categorical limit must be above 0 and at most {LARGEST_CATEGORICAL}, where the distance ends, "
                f"got {self.categorical_limit}."
            )
        if self.seasonal_limit is not None and self.seasonal_limit < self.limit:
            raise ValueError(f"the seasonal limit {self.seasonal_limit} is below the limit {self.limit}.")
        if not 0 <= self.alarm_share <= 1:
            raise ValueError(f"the alarm share must be 0-1, got {self.alarm_share}.")


@dataclass(frozen=True, slots=True)
class DriftVerdict(Payload):
    """
    What the drift scores mean.

    :param reasons: Sentences that explain an alarm; none without one.
    :param warnings: What a person should know and no policy acts on.
    """

    columns: tuple[ColumnDrift, ...]
    alarm: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of all columns at or beyond their limit, seasonal ones included."""
        return tuple(column.column for column in self.columns if column.drifted)


def judge(policy: DriftPolicy, columns: Sequence[ColumnDrift], *, rows: int) -> DriftVerdict:
    """
    Decide whether the columns' drift is an alarm.

    :param rows: Rows of the smaller side of the comparison.
    """
    if rows < policy.minimum_rows:
        few = f"Drift was not judged: {rows:,} rows, at least {policy.minimum_rows:,} are needed."
        return DriftVerdict(tuple(columns), alarm=False, reasons=(), warnings=(few,))

    counted = [column for column in columns if _counts(policy, column)]
    watched = [column for column in columns if not column.seasonal or policy.seasonal_limit is not None]
    in_season = tuple(
        f"{column.column}: {column.method} {_beyond(column.score, column.limit)}; it moves with the season, "
        "so this raises no alarm."
        for column in columns
        if column.drifted and column not in counted
    )
    moved = tuple(_counted(policy, column) for column in _furthest_first(counted))
    if not counted:
        return DriftVerdict(tuple(columns), alarm=False, reasons=(), warnings=in_season)
    share = len(counted) / len(watched)
    alarm_from = f"{share:.0%}, alarm from {policy.alarm_share:.0%}" if policy.alarm_share else "one is an alarm"
    what = f"{len(counted)} of {len(watched)} columns drifted ({alarm_from})"
    if share < policy.alarm_share:
        return DriftVerdict(
            tuple(columns), alarm=False, reasons=(), warnings=(f"{what}: no alarm.", *moved, *in_season)
        )
    return DriftVerdict(tuple(columns), alarm=True, reasons=(f"{what}.", *moved), warnings=in_season)


def _counts(policy: DriftPolicy, column: ColumnDrift) -> bool:
    if column.seasonal:
        return policy.seasonal_limit is not None and column.score >= policy.seasonal_limit
    return column.drifted


def _counted(policy: DriftPolicy, column: ColumnDrift) -> str:
    if column.seasonal and policy.seasonal_limit is not None:
        return (
            f"{column.column}: {column.method} {_beyond(column.score, policy.seasonal_limit)}, "
            "further than any season moves it."
        )
    return f"{column.column}: {column.method} {_beyond(column.score, column.limit)}."


def _beyond(score: float, limit: float) -> str:
    shown, bound = apart(score, limit)
    return f"{shown}, limit {bound}"


def _furthest_first(columns: Sequence[ColumnDrift]) -> list[ColumnDrift]:
    return sorted(columns, key=lambda column: -column.score)

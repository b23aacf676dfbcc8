"""What a guard of a rollout made of what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlops_provider.core.payload import Payload

Verdict = Literal["passed", "breached", "waiting", "not_judged"]

SURE = 3.0
"""
Standard deviations by which what was measured has to be beyond its limit.

Guards look again and again, and one breach is final: of a version that is exactly as bad as it may be, one look in 700
finds it worse.
"""

KEPT_ROWS = 10
"""Rows of a request that count, spread over it: they are alike, and a large batch may not outvote other callers."""

KEPT = 2000
"""Requests of a version of which a replica keeps the predictions."""
FEWEST = 10
"""Requests of a version below which nothing is said of its predictions: how far requests lie apart is not known yet."""


@dataclass(frozen=True, slots=True)
class Reading(Payload):
    """
    What one guard made of what was seen.

    :param value: What was measured; None without a sample.
    :param limit: What it is held against.
    :param sample: Requests or rows that were seen.
    :param minimum: How many it takes.
    :param sentence: The same for a person.
    """

    guard: str
    verdict: Verdict
    value: float | None
    limit: float | None
    sample: int
    minimum: int
    sentence: str


def judged(  # noqa: PLR0917 - a row of readings is spelled as a row
    verdict: Verdict, guard: str, limit: float | None, sample: int, minimum: int, value: float | None, said: str
) -> Reading:
    """Write what a guard found."""
    return Reading(guard, verdict, value, limit, sample, minimum, f"{guard}: {said}")


def waiting(guard: str, limit: float | None, sample: int, minimum: int, *, unit: str) -> Reading:
    """Write that a guard lacks its minimum sample."""
    return Reading(
        guard, "waiting", None, limit, sample, minimum, f"{guard}: {sample:,} {unit} so far, {minimum:,} are needed."
    )


def percent(share: float) -> str:
    """Write a share for a sentence: ``1.5 %``."""
    return f"{100 * share:.3g} %"

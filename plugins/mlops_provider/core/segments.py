"""One model per segment: which segments are judged, how surely, and who answers for each, in words and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from mlops_provider.core.evaluation import PARENT
from mlops_provider.core.gates import FEW_BLOCKS
from mlops_provider.core.metrics import DIRECTIONS, Interval, signed
from mlops_provider.core.payload import Payload

MEASURED_AT = 0.95
"""
Coverage of the percentile interval that is measured. Those of corrected coverage are drawn out from it, so that the
resamples a segment costs do not grow with the number of segments.
"""

RESAMPLES = 1000
"""Resamples that such an interval needs: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993)."""

FEW_RARE = 20
"""Rows of each class below which neither a child learns it nor an interval tells what chance does to a score."""


@dataclass(frozen=True, slots=True)
class Segment(Payload):
    """
    What is known of a segment before a child is fitted.

    :param rows: Rows of the earlier part of the training partitions, on which parent and child are fitted to compare.
    :param validation_rows: Rows of the later part, which they are compared on.
    :param blocks: Blocks these come in, of two classes those that hold the one that fewer of them hold; None if single
        rows are resampled.
    :param rare: Rows of the rarer class among *rows*; None if there are no classes.
    :param validation_rare: The same among *validation_rows*.
    :param unfit: Why nothing can be learnt from its rows, or be judged on them; empty if it can.
    """

    value: str
    rows: int
    validation_rows: int
    blocks: int | None = None
    rare: int | None = None
    validation_rare: int | None = None
    unfit: str = ""

    @property
    def independent(self) -> int:
        """Units that its interval rests on: blocks; else rows of the rarer class; else rows."""
        if self.blocks is not None:
            return self.blocks
        return self.validation_rows if self.validation_rare is None else self.validation_rare

    def excluded(self, minimum_rows: int) -> str:
        """
        Say why no child is judged; nothing if one is.

        :param minimum_rows: Rows needed of each kind.
        """
        if self.value == PARENT:
            return f"The name {PARENT!r} stands for the model of all segments."
        if min(self.rows, self.validation_rows) < minimum_rows:
            return (
                f"Too few rows: {self.rows:,} to learn from and {self.validation_rows:,} to be judged on, at least "
                f"{minimum_rows:,} of each needed."
            )
        if self.unfit:
            return self.unfit
        if self.rare is not None and self.validation_rare is not None:
            learnt, judged = self.rare, self.validation_rare
            if min(learnt, judged) < FEW_RARE:
                return (
                    f"Too few rows of the rarer class: {learnt:,} to learn from and {judged:,} to be judged on, at "
                    f"least {FEW_RARE} of each needed."
                )
        if self.blocks is not None and self.blocks < FEW_BLOCKS:
            holding = "" if self.validation_rare is None else " that hold the rarer class"
            return f"Too few blocks{holding} to be judged on: {self.blocks}, at least {FEW_BLOCKS} needed."
        return ""


def corrected(confidence: float, judged: int) -> float:
    """
    Give the coverage of each of *judged* intervals, so that all of them hold together with *confidence*.

    By Bonferroni's inequality: the more segments are judged, the likelier one of them wins by chance.

    :param confidence: Coverage of an interval that stands alone, 0-1.
    """
    return 1 - (1 - confidence) / max(judged, 1)


def drawn_out_by(confidence: float, independent: int) -> float:
    """
    Say how much wider than the measured interval one of another coverage is that stands on few units.

    ``t(n - 1; confidence) / z(MEASURED_AT) * sqrt(n / (n - 1))``: percentile intervals are too short by about the ratio
    of Student's t to the normal quantile, and by that of two estimates of a variance. Hesterberg, "What Teachers
    Should Know About the Bootstrap" (The American Statistician, 2015), expands them so, by quantiles further out. Here
    the ends move, so that far tails need no more resamples: the shape of the tail is Student's, its width on each side
    that of the resamples.

    :param confidence: Coverage wanted, 0-1.
    :param independent: Units that were resampled, n; 2 or more.
    """
    measured = NormalDist().inv_cdf((1 + MEASURED_AT) / 2)
    return student(confidence, independent - 1) / measured * math.sqrt(independent / (independent - 1))


def student(confidence: float, freedom: int) -> float:
    """
    Give the number that Student's t exceeds in size with a probability of 1 - *confidence*.

    By bisection of the sums 26.7.3 and 26.7.4 of Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964).

    :param freedom: Degrees of freedom, 1 or more; beyond 1,000 they change nothing in three digits, and count as these.
    """
    freedom = min(freedom, 1000)
    below, above = 0.0, math.pi / 2
    for _ in range(60):
        angle = (below + above) / 2
        below, above = (angle, above) if _inside(angle, freedom) < confidence else (below, angle)
    return math.sqrt(freedom) * math.tan(above)


def _inside(angle: float, freedom: int) -> float:
    """Probability that Student's t is smaller in size than ``sqrt(freedom) * tan(angle)``."""
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else math.cos(angle) ** odd
    for k in range(2 + odd, freedom, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def drawn_out(measured: Interval, factor: float) -> Interval:
    """
    Draw both ends of an interval out from its value.

    :param measured: Percentile interval. An end on the wrong side of the value counts as lying on it.
    :param factor: Distance of an end from the value, in units of what it was.
    """
    return Interval(
        measured.value,
        measured.value - factor * max(measured.value - measured.low, 0.0),
        measured.value + factor * max(measured.high - measured.value, 0.0),
    )


def wins(difference: Interval) -> bool:
    """Whether a child is shown better than its parent: all of the interval lies above 0."""
    return difference.low > 0


def told(difference: Interval, metric: str) -> str:
    """
    Say what a comparison showed.

    :param difference: Child minus parent, oriented so that above 0 the child is better.
    """
    apart = "is smaller by" if DIRECTIONS.get(metric, +1) < 0 else "differs by"
    numbers = f"{metric} {apart} {signed(difference.value)} ({signed(difference.low)} to {signed(difference.high)})"
    if wins(difference):
        return f"Better than the parent: {numbers}."
    if difference.high < 0:
        return f"Worse than the parent: {numbers}."
    return f"Not shown better than the parent: {numbers}."

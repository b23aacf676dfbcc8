"""One model per segment: which segments are judged, how surely, and who answers for each, in words and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlops_provider.core.evaluation import PARENT
from mlops_provider.core.gates import FEW_BLOCKS
from mlops_provider.core.metrics import Interval, signed
from mlops_provider.core.payload import Payload

BEYOND_EACH_END = 25
"""
Resamples that should lie beyond each end of an interval: as many as beyond those of a 95 % interval of 1,000 resamples,
which Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), ask for.
"""


@dataclass(frozen=True, slots=True)
class Segment(Payload):
    """
    What is known of a segment before a child is fitted.

    :param rows: Rows of the earlier part of the training partitions, on which parent and child are fitted to compare.
    :param validation_rows: Rows of the later part, which they are compared on.
    :param blocks: Blocks these come in; None if single rows are resampled.
    :param unfit: Why nothing can be learnt from its rows, or be judged on them; empty if it can.
    """

    value: str
    rows: int
    validation_rows: int
    blocks: int | None = None
    unfit: str = ""

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
        if self.blocks is not None and self.blocks < FEW_BLOCKS:
            return f"Too few blocks to be judged on: {self.blocks}, at least {FEW_BLOCKS} needed."
        return self.unfit


def corrected(confidence: float, judged: int) -> float:
    """
    Give the coverage of each of *judged* intervals, so that all of them hold together with *confidence*.

    By Bonferroni's inequality: the more segments are judged, the likelier one of them wins by chance.

    :param confidence: Coverage of an interval that stands alone, 0-1.
    """
    return 1 - (1 - confidence) / max(judged, 1)


def resamples_for(confidence: float, declared: int) -> int:
    """Give the resamples that an interval of that coverage needs; *declared* at least."""
    # Rounded first: 1 - 0.99375 is a little less than 0.00625.
    return max(declared, math.ceil(round(2 * BEYOND_EACH_END / (1 - confidence), 6)))


def wins(difference: Interval) -> bool:
    """Whether a child is shown better than its parent: all of the interval lies above 0."""
    return difference.low > 0


def told(difference: Interval, metric: str) -> str:
    """
    Say what a comparison showed.

    :param difference: Child minus parent, oriented so that above 0 the child is better.
    """
    numbers = f"{metric} differs by {signed(difference.value)} ({signed(difference.low)} to {signed(difference.high)})"
    if wins(difference):
        return f"Better than the parent: {numbers}."
    if difference.high < 0:
        return f"Worse than the parent: {numbers}."
    return f"Not shown better than the parent: {numbers}."

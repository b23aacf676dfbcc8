"""Metric names, intervals, and how numbers are written in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mlops_provider.core.payload import Payload

DIRECTIONS: Mapping[str, int] = MappingProxyType(
    {
        "roc_auc": +1,
        "average_precision": +1,
        "accuracy": +1,
        "balanced_accuracy": +1,
        "precision": +1,
        "recall": +1,
        "f1": +1,
        "brier": -1,
        "log_loss": -1,
    }
)
"""Metrics this package knows: +1 where more is better, -1 where less is."""


@dataclass(frozen=True, slots=True)
class Interval(Payload):
    """
    A number and its confidence interval, all finite.

    The value may lie outside: a bootstrap interval need not hold the point estimate.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise ValueError("an interval needs finite numbers; leave out a metric that is undefined.")
        if self.low > self.high:
            raise ValueError(f"the interval's low end {self.low} is above its high end {self.high}.")

    def __str__(self) -> str:
        return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


def number(value: float, decimals: int = 4) -> str:
    """Write a number for a sentence: four decimals, one from 100 on, ``1e-05`` rather than ``0.0000``."""
    if abs(value) >= 100:
        return f"{value:,.{max(decimals - 3, 1)}f}"
    text = f"{value:.{decimals}f}"
    return f"{value:.1e}" if value and not float(text) else text


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return number(value) if value < 0 else f"+{number(value)}"


def apart(one: float, other: float) -> tuple[str, str]:
    """Write two numbers with as many decimals as it takes to tell them apart, so 0.72999 is not "below 0.7300"."""
    for decimals in range(4, 12):
        texts = number(one, decimals), number(other, decimals)
        if texts[0] != texts[1] or one == other:
            break
    return texts

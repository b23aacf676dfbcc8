"""Metric names, intervals, and how numbers are written in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mlops_provider.core.payload import Payload


@dataclass(frozen=True, slots=True)
class Metric:
    """
    A metric this package knows.

    :param title: As a person writes it.
    :param direction: +1 where more is better, -1 where less is.
    """

    title: str
    direction: int


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "roc_auc": Metric("ROC AUC", +1),
        "average_precision": Metric("Average precision", +1),
        "accuracy": Metric("Accuracy", +1),
        "balanced_accuracy": Metric("Balanced accuracy", +1),
        "precision": Metric("Precision", +1),
        "recall": Metric("Recall", +1),
        "f1": Metric("F1", +1),
        "brier": Metric("Brier score", -1),
        "log_loss": Metric("Log loss", -1),
        "rmse": Metric("RMSE", -1),
        "mae": Metric("MAE", -1),
        "median_absolute_error": Metric("Median absolute error", -1),
        "r2": Metric("R\u00b2", +1),
        "absolute_bias": Metric("Absolute bias", -1),
    }
)
"""Every metric; which of them fits which target says `mlops_provider.core.tasks`."""

DIRECTIONS: Mapping[str, int] = MappingProxyType({name: metric.direction for name, metric in METRICS.items()})
"""+1 where more is better, -1 where less is."""


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

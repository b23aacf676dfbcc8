"""Render an evaluation as one HTML page that needs nothing else: no script, no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mlops_provider.adapters.evaluation import CalibrationBin
from mlops_provider.core.evaluation import Evaluation
from mlops_provider.core.gates import GatePolicy
from mlops_provider.core.metrics import DIRECTIONS, Interval

TITLES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
}
SHOWN = ("roc_auc", "average_precision", "brier", "log_loss")
"""Metrics that every report shows; those that the gate names come after them."""

CONTENDERS = {
    "candidate": "candidate",
    "champion": "champion in service",
    "dummy": "dummy: the base rate",
    "linear": "logistic regression",
}

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval as a line with a dot, in percent of the width of its track (0-100)."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps numbers of one kind to places on their common track."""

    low: float
    high: float

    @classmethod
    def over(cls, intervals: Sequence[Interval], also: Sequence[float] = ()) -> _Scale:
        numbers = [*also, *(number for each in intervals for number in (each.low, each.value, each.high))]
        margin = 0.06 * ((max(numbers) - min(numbers)) or 1.0)
        return cls(min(numbers) - margin, max(numbers) + margin)

    def place(self, number: float) -> float:
        return round(100 * (number - self.low) / (self.high - self.low), 2)

    def bar(self, interval: Interval) -> Bar:
        return Bar(self.place(interval.low), self.place(interval.value), self.place(interval.high))


def _finding(difference: Interval) -> str:
    """Say in a word what an oriented difference means."""
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "inside the noise"


def evaluation_page(
    evaluation: Evaluation,
    calibration: Sequence[CalibrationBin],
    policy: GatePolicy,
    *,
    resamples: int,
    confidence: float,
) -> str:
    """
    Write the evaluation report: contenders, paired differences, slices, calibration.

    :param resamples: Bootstrap resamples behind each interval.
    :param confidence: Share of them inside an interval, 0-1.
    :return: HTML, readable in light and dark.
    """
    metrics = [
        *SHOWN,
        *dict.fromkeys(
            metric for metric in (policy.primary, *(limit.metric for limit in policy.limits)) if metric not in SHOWN
        ),
    ]
    return _templates.get_template("evaluation.html").render(
        evaluation=evaluation,
        policy=policy,
        resamples=resamples,
        confidence=confidence,
        metrics=metrics,
        titles=TITLES,
        directions=DIRECTIONS,
        names=CONTENDERS,
        differences=_differences(evaluation, policy),
        slices=_slices(evaluation, policy),
        curve=_curve(calibration),
        calibration=calibration,
    )


def _differences(evaluation: Evaluation, policy: GatePolicy) -> list[dict[str, object]]:
    shown = [each for each in evaluation.comparisons if each.metric == policy.primary]
    if not shown:
        return []
    scale = _Scale.over([each.difference for each in shown], also=(0.0,))
    return [
        {
            "opponent": each.opponent,
            "interval": each.difference,
            "finding": _finding(each.difference),
            "bar": scale.bar(each.difference),
            "zero": scale.place(0.0),
        }
        for each in shown
    ]


def _slices(evaluation: Evaluation, policy: GatePolicy) -> list[dict[str, object]]:
    if not evaluation.slices:
        return []
    floor = policy.slice_floor
    scale = _Scale.over([each.score for each in evaluation.slices], also=() if floor is None else (floor.minimum,))
    held: Callable[[int], bool] = lambda rows: floor is not None and rows >= floor.minimum_rows  # noqa: E731
    return [
        {
            "slice": each,
            "bar": scale.bar(each.score),
            "floor": scale.place(floor.minimum) if floor is not None and held(each.rows) else None,
            "below": floor is not None and held(each.rows) and each.score.value < floor.minimum,
            "held": held(each.rows),
        }
        for each in evaluation.slices
    ]


def _curve(calibration: Sequence[CalibrationBin]) -> dict[str, object]:
    """Place the calibration curve on a square of 100 by 100; both axes reach the largest rate."""
    top = max([0.01, *(max(each.predicted, each.observed) for each in calibration)]) * 1.05
    points = [(round(100 * each.predicted / top, 2), round(100 - 100 * each.observed / top, 2)) for each in calibration]
    return {"top": top, "points": points}

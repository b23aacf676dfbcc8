"""Render an evaluation as one HTML page that needs nothing else: no script, no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mlops_provider.adapters.evaluation import CalibrationBin
from mlops_provider.core.evaluation import PARENT, Evaluation
from mlops_provider.core.fairness import MEASURES, RATES, Disparity
from mlops_provider.core.gates import GatePolicy
from mlops_provider.core.metrics import DIRECTIONS, METRICS, Interval, number, signed
from mlops_provider.core.tasks import TASKS, TargetTask

_ROUNDING = 1e-12

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
# What rounding leaves of a zero, such as the bias of a mean, is written as zero.
_templates.filters |= {
    "number": lambda value: number(value if abs(value) > _ROUNDING else 0.0),
    "signed": lambda value: signed(value if abs(value) > _ROUNDING else 0.0),
}


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
    if difference.low == difference.high == 0:
        return "the same"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "inside the noise"


def evaluation_page(
    evaluation: Evaluation,
    calibration: Sequence[CalibrationBin],
    residuals: Mapping[str, float],
    policy: GatePolicy,
    *,
    resamples: int,
    confidence: float,
) -> str:
    """
    Write the evaluation report: contenders, paired differences, slices, fairness, calibration.

    :param residuals: Errors of the candidate summed up, by name; empty for a target of 0 and 1.
    :param resamples: Bootstrap resamples behind each interval.
    :param confidence: Share of them inside an interval, 0-1.
    :return: HTML, readable in light and dark.
    """
    task = TASKS[evaluation.task]
    named = (policy.primary, *(limit.metric for limit in policy.limits))
    return _templates.get_template("evaluation.html").render(
        evaluation=evaluation,
        policy=policy,
        bound=policy.slice_bound,
        task=task,
        resamples=resamples,
        confidence=confidence,
        metrics=list(dict.fromkeys([*task.shown, *named])),
        titles={name: metric.title for name, metric in METRICS.items()},
        directions=DIRECTIONS,
        names={
            "candidate": "candidate",
            "champion": "champion in service",
            "dummy": task.dummy,
            "linear": task.linear,
            "parent": "its parent: one model for all",
        },
        differences=_differences(evaluation, policy),
        slices=_slices(evaluation, policy),
        segments=_segments(evaluation),
        attributes=[_attribute(name, evaluation, policy, task) for name in evaluation.fairness.attributes],
        curve=_curve(calibration),
        calibration=calibration,
        residuals=residuals,
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
    bound = policy.slice_bound
    scale = _Scale.over([each.score for each in evaluation.slices], also=() if bound is None else (bound.bound,))
    held: Callable[[int], bool] = lambda rows: bound is not None and rows >= bound.minimum_rows  # noqa: E731
    return [
        {
            "slice": each,
            "bar": scale.bar(each.score),
            "bound": scale.place(bound.bound) if bound is not None and held(each.rows) else None,
            "beyond": bound is not None and held(each.rows) and bound.beyond(each.score.value),
            "held": held(each.rows),
        }
        for each in evaluation.slices
    ]


def _segments(evaluation: Evaluation) -> list[dict[str, object]]:
    """Lay out who answers for each segment: those with a model of their own first, then by rows."""
    own = [each for each in evaluation.segments if each.answered_by != PARENT]
    known = [each.difference for each in own if each.difference is not None]
    scale = _Scale.over(known, also=(0.0,)) if known else None
    return [
        {
            "segment": each,
            "own": each in own,
            "bar": scale.bar(each.difference) if scale and each in own and each.difference else None,
            "zero": scale.place(0.0) if scale else None,
            "finding": _finding(each.difference) if each.difference else "",
        }
        for each in sorted(evaluation.segments, key=lambda one: (one.answered_by == PARENT, -one.rows, one.value))
    ]


def _attribute(attribute: str, evaluation: Evaluation, policy: GatePolicy, task: TargetTask) -> dict[str, object]:
    """Lay out one protected attribute: its groups by rate, and how far they lie apart."""
    fairness = evaluation.fairness
    groups = [each for each in fairness.groups if each.attribute == attribute]
    rates = [*task.rates, *(() if policy.primary in task.rates else (policy.primary,))]
    scales = {
        rate: _Scale.over(known)
        for rate in rates
        if (known := [each.metrics[rate] for each in groups if rate in each.metrics])
    }
    return {
        "name": attribute,
        "rates": [(rate, RATES.get(rate) or METRICS[rate].title) for rate in rates],
        "groups": [
            {
                "group": each,
                "bars": {rate: scales[rate].bar(interval) for rate, interval in each.metrics.items() if rate in scales},
            }
            for each in groups
        ],
        "disparities": [_disparity(each, policy) for each in fairness.disparities if each.attribute == attribute],
        "proxies": [each for each in fairness.proxies if each.attribute == attribute],
    }


def _disparity(found: Disparity, policy: GatePolicy) -> dict[str, object]:
    limit = next(
        (
            each
            for each in policy.fairness
            if each.measure == found.measure
            and each.attribute in (None, found.attribute)
            and each.minimum_rows == found.minimum_rows
        ),
        None,
    )
    measure, equal = MEASURES[found.measure], 1.0 if MEASURES[found.measure].ratio else 0.0
    bound = None if limit is None else (limit.minimum if measure.ratio else limit.maximum)
    scale = _Scale.over([found.score], also=(equal,) if bound is None else (equal, bound))
    missed = bound is not None and (found.score.value < bound if measure.ratio else found.score.value > bound)
    return {
        "found": found,
        "title": measure.title,
        "rate": RATES[found.rate],
        "bar": scale.bar(found.score),
        "mark": scale.place(equal if bound is None else bound),
        "limit": "not gated" if bound is None else f"{'at least' if measure.ratio else 'at most'} {number(bound)}",
        "missed": missed,
    }


def _curve(calibration: Sequence[CalibrationBin]) -> dict[str, object]:
    """Place the calibration curve on a square of 100 by 100; both axes have the same ends."""
    numbers = [number for each in calibration for number in (each.predicted, each.observed)]
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    if 0 < low < high / 2:
        low = 0.0  # zero is an end that people expect, unless it would squeeze the curve into a corner
    reach = ((high - low) or 1.0) * 1.05
    points = [
        (round(100 * (each.predicted - low) / reach, 2), round(100 - 100 * (each.observed - low) / reach, 2))
        for each in calibration
    ]
    return {"low": low, "top": low + reach, "points": points}

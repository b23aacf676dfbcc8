"""The guard that waits for the truth: how well a version on trial predicted what then happened."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_provider.core.metrics import DIRECTIONS, apart, number
from mlops_provider.core.payload import Payload
from mlops_provider.core.readings import SURE, Reading, Verdict, judged, waiting
from mlops_provider.core.retrain import Drop

_ROUNDING = 1e-9
_OF_EACH_CLASS = 10
"""Outcomes of each class below which the standard error of a score says too little."""


@dataclass(frozen=True, slots=True)
class PerformanceGuard(Payload):
    """
    A version may not predict worse than the champion, where it is known what happened.

    :param metric: What is measured, such as "roc_auc" or "rmse".
    :param drop: By how much it may be worse than the champion's.
    :param limit: Worst score allowed, in units of the metric; None for no such limit.
    :param minimum_labels: Labelled predictions of each version below which nothing is judged.
    """

    metric: str
    drop: Drop
    limit: float | None
    minimum_labels: int

    def __str__(self) -> str:
        amount = f"{100 * self.drop.amount:g} %" if self.drop.relative else f"{self.drop.amount:g}"
        bound = "" if self.limit is None else f", and {self._side} {self.limit:g}"
        labels = f"of {self.minimum_labels:,} labelled predictions or more"
        return f"{self.metric} at most {amount} worse than the champion's{bound}, {labels}"

    @property
    def direction(self) -> int:
        """+1 where more of the metric is better, else -1."""
        return DIRECTIONS[self.metric]

    @property
    def _side(self) -> str:
        return "at least" if self.direction > 0 else "at most"


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    A score or a difference of two.

    :param error: Its standard error, in the same units.
    """

    value: float
    error: float

    def surely_above(self, bound: float) -> bool:
        """Whether it is above *bound* by more than chance explains."""
        return self.value - SURE * self.error > bound + _ROUNDING


@dataclass(frozen=True, slots=True)
class Scored:
    """
    Predictions of one version whose outcomes were told.

    :param labels: How many there are.
    :param score: The metric on them; None while they leave it undefined.
    :param rarer: How many of them are of the rarer class; None of numbers.
    """

    labels: int = 0
    score: Estimate | None = None
    rarer: int | None = None


@dataclass(frozen=True, slots=True)
class Met:
    """
    Two versions in one step, in which callers met both.

    :param worse: By how much the version on trial is worse than the champion, negative if it is better; None while it
        is undefined.
    """

    version: Scored = Scored()
    champion: Scored = Scored()
    worse: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Performance:
    """
    What is known of the predictions of a rollout whose outcomes were told.

    :param version: The version on trial in the present step.
    :param met: The newest step in which callers met both, the present one if they do now; None if they never did.
    """

    version: Scored = Scored()
    met: Met | None = None


def performance(guard: PerformanceGuard, seen: Performance) -> Reading:
    """
    Hold live performance against its guard.

    What is beyond its limit by less than three standard errors passes, and the sentence says so. A score beyond
    the absolute limit passes, too, if the champion misses it as well and the version is not surely worse: then the
    times are to blame.
    """
    met, limit, minimum = seen.met, guard.limit, guard.minimum_labels
    drop = guard.drop.of(met.champion.score.value if met and met.champion.score else 0.0)
    words = "; there is no champion's to compare it with"
    if met is not None:
        about = ("performance", drop, met.version.labels, minimum)
        if lacking := _lacking(guard, drop, met.version) or _lacking(guard, drop, met.champion, " of the champion"):
            return lacking
        if met.worse is None or met.champion.score is None:
            return _undefined(guard, drop, met.version)
        broken, words = _compared(guard, met.worse, met.champion.score.value)
        if broken or limit is None:
            said = f"{_scored(guard, met.version)}, {words}."
            return judged("breached" if broken else "passed", *about, met.worse.value, said)
        same = met.version == seen.version
        words = f", {words}" if same else f"; where callers met both, {_scored(guard, met.version)}, {words}"
    if limit is None:
        said = "callers met no champion to compare with, and no limit is declared."
        return judged("not_judged", "performance", drop, seen.version.labels, minimum, None, said)
    if lacking := _lacking(guard, limit, seen.version):
        return lacking
    if seen.version.score is None:
        return _undefined(guard, limit, seen.version)
    broken, bound = _held(guard, limit, seen.version.score, met)
    verdict: Verdict = "breached" if broken else "passed"
    said = f"{_scored(guard, seen.version)}, {bound}{words}."
    return judged(verdict, "performance", limit, seen.version.labels, minimum, seen.version.score.value, said)


def _lacking(guard: PerformanceGuard, bound: float, scored: Scored, whose: str = "") -> Reading | None:
    """The reading of a version that lacks its minimum sample."""
    unit = f"labelled predictions{whose}"
    if scored.labels < guard.minimum_labels:
        return waiting("performance", bound, scored.labels, guard.minimum_labels, unit=unit)
    if scored.rarer is not None and scored.rarer < _OF_EACH_CLASS:
        return waiting("performance", bound, scored.rarer, _OF_EACH_CLASS, unit=f"{unit} of the rarer class")
    return None


def _undefined(guard: PerformanceGuard, bound: float, scored: Scored) -> Reading:
    said = f"{guard.metric} can't be measured on {scored.labels:,} labelled predictions of one class or one request."
    return judged("waiting", "performance", bound, scored.labels, guard.minimum_labels, None, said)


def _scored(guard: PerformanceGuard, scored: Scored) -> str:
    value = "" if scored.score is None else f" {number(scored.score.value)}"
    return f"{guard.metric}{value} of {scored.labels:,} labelled predictions"


def _held(guard: PerformanceGuard, limit: float, score: Estimate, met: Met | None) -> tuple[bool, str]:
    """Whether a score breaks the absolute limit, and the words for it."""
    beyond = Estimate((limit - score.value) * guard.direction, score.error)
    said = f"limit {apart(limit, score.value)[0]}"
    if beyond.value <= 0:
        return False, said
    champion = met.champion.score if met else None
    missed = champion is not None and (limit - champion.value) * guard.direction > 0
    if met and champion and missed and met.worse and not met.worse.surely_above(0.0):
        return False, f"{said} (the champion misses it, too: {number(champion.value)})"
    return (True, said) if beyond.surely_above(0.0) else (False, f"{said} (it may be chance)")


def _compared(guard: PerformanceGuard, worse: Estimate, champion: float) -> tuple[bool, str]:
    """Whether the version is too much worse than the champion, and the words for it."""
    drop = guard.drop.of(champion)
    side = "worse" if worse.value > 0 else "better"
    said = f"{number(abs(worse.value))} {side} than the champion's {number(champion)}"
    said += f", tolerated drop {guard.drop.against(champion)}"
    if worse.value <= drop:
        return False, said
    return (True, said) if worse.surely_above(drop) else (False, f"{said} (it may be chance)")

"""The guard that waits for the truth: how well a version on trial predicted what then happened."""

from __future__ import annotations

import math
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

    What is beyond its limit by less than three standard errors passes, and the sentence says so. A score beyond the
    absolute limit passes, too, if the champion missed it where callers met both, the version was not surely worse
    there, and is not surely worse now than the champion was: then the times are to blame.
    """
    met, limit = seen.met, guard.limit
    now = met is not None and met.version == seen.version
    compared = _compared(guard, met) if met else None
    if compared and (compared.verdict == "breached" or (compared.verdict == "waiting" and now)):
        return compared
    if limit is None:
        if compared:
            return compared
        said = "callers met no champion to compare with, and no limit is declared."
        return judged(
            "not_judged", "performance", guard.drop.of(0.0), seen.version.labels, guard.minimum_labels, None, said
        )
    held = _lacking(guard, limit, seen.version) or _held(guard, limit, seen.version, met, now=now)
    if compared and compared.verdict == "waiting" and held.verdict != "breached":
        return compared
    return held


def _compared(guard: PerformanceGuard, met: Met) -> Reading:
    """The reading of a version beside the champion."""
    version, champion, worse = met.version, met.champion.score, met.worse
    drop = guard.drop.of(champion.value if champion else 0.0)
    if lacking := _lacking(guard, drop, version) or _lacking(guard, drop, met.champion, " of the champion"):
        return lacking
    if worse is None or champion is None:
        return _undefined(guard, drop, version)
    said = f"{_scored(guard, version)}, {_difference(guard, worse, champion.value)}."
    verdict: Verdict = "breached" if worse.surely_above(drop) else "passed"
    return judged(verdict, "performance", drop, version.labels, guard.minimum_labels, worse.value, said)


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


def _held(guard: PerformanceGuard, limit: float, version: Scored, met: Met | None, *, now: bool) -> Reading:
    """The reading of the present score, by the absolute limit; *now* if callers meet both in the present step."""
    score = version.score
    if score is None:
        return _undefined(guard, limit, version)
    beyond, said = (
        Estimate((limit - score.value) * guard.direction, score.error),
        f"limit {apart(limit, score.value)[0]}",
    )
    broken = beyond.surely_above(0.0)
    champion = met.champion.score if met else None
    missed = champion is not None and (limit - champion.value) * guard.direction > 0
    if beyond.value > 0 and champion and missed and met and met.worse and not met.worse.surely_above(0.0):
        fallen = Estimate((champion.value - score.value) * guard.direction, math.hypot(score.error, champion.error))
        broken = not now and fallen.surely_above(0.0)
        said += f" (the champion {'misses' if now else 'missed'} it, too: {number(champion.value)})"
    elif beyond.value > 0 and not broken:
        said += " (it may be chance)"
    verdict: Verdict = "breached" if broken else "passed"
    said = f"{_scored(guard, version)}, {said}{_beside(guard, met, now=now)}."
    return judged(verdict, "performance", limit, version.labels, guard.minimum_labels, score.value, said)


def _beside(guard: PerformanceGuard, met: Met | None, *, now: bool) -> str:
    """How a sentence about the present score ends: with the comparison, if there is one."""
    if met is None:
        return "; there is no champion's to compare it with"
    if met.worse is None or met.champion.score is None:
        return "; where callers met both, too few outcomes are known"
    difference = _difference(guard, met.worse, met.champion.score.value)
    return f", {difference}" if now else f"; where callers met both, {_scored(guard, met.version)}, {difference}"


def _difference(guard: PerformanceGuard, worse: Estimate, champion: float) -> str:
    """By how much a version is worse than the champion, in words."""
    drop = guard.drop.of(champion)
    side = "worse" if worse.value > 0 else "better"
    said = f"{number(abs(worse.value))} {side} than the champion's {number(champion)}"
    said += f", tolerated drop {guard.drop.against(champion)}"
    return said if worse.value <= drop or worse.surely_above(drop) else f"{said} (it may be chance)"

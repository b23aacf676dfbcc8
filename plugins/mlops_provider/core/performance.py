"""The guard that waits for the truth: how well a version on trial predicted what then happened."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_provider.core.metrics import DIRECTIONS, apart, number
from mlops_provider.core.payload import Payload
from mlops_provider.core.readings import SURE, Reading, Verdict, judged, waiting
from mlops_provider.core.retrain import Drop

_ROUNDING = 1e-9


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
class Performance:
    """
    What is known of the predictions of a rollout whose outcomes were told.

    :param labels: Labelled predictions of the version on trial.
    :param champion_labels: Of the champion, where callers met both; None if they never did.
    :param score: The metric of the version on trial; None while its labels leave it undefined.
    :param champion: The metric of the champion.
    :param worse: By how much the version on trial is worse than the champion, negative if it is better.
    """

    labels: int = 0
    champion_labels: int | None = None
    score: Estimate | None = None
    champion: float | None = None
    worse: Estimate | None = None


def performance(guard: PerformanceGuard, seen: Performance) -> Reading:
    """
    Hold live performance against its guard.

    What is beyond its limit by less than three standard errors passes, and the sentence says so. A score beyond the
    absolute limit passes, too, if the champion's is no better: then the times are to blame.
    """
    drop, minimum = guard.drop.of(seen.champion or 0.0), guard.minimum_labels
    about = ("performance", drop, seen.labels, minimum)
    if seen.labels < minimum:
        return waiting(*about, unit="labelled predictions")
    compared = seen.champion_labels is not None
    if seen.champion_labels is not None and seen.champion_labels < minimum:
        unit = "labelled predictions of the champion"
        return waiting("performance", drop, seen.champion_labels, minimum, unit=unit)
    if seen.score is None or (compared and seen.worse is None):
        said = f"{guard.metric} can't be measured on {seen.labels:,} labelled predictions of one class or one request."
        return judged("waiting", *about, None, said)
    said = f"{guard.metric} {number(seen.score.value)} of {seen.labels:,} labelled predictions"
    if guard.limit is not None:
        broken, words = _held(guard, guard.limit, seen.score, seen)
        said += f", {words}"
        if broken:
            return judged("breached", "performance", guard.limit, seen.labels, minimum, seen.score.value, f"{said}.")
    if seen.worse is None or seen.champion is None:
        verdict: Verdict = "not_judged" if guard.limit is None else "passed"
        return judged(verdict, *about, seen.score.value, f"{said}; there is no champion's to compare it with.")
    broken, words = _compared(guard, seen.worse, seen.champion)
    return judged("breached" if broken else "passed", *about, seen.worse.value, f"{said}, {words}.")


def _held(guard: PerformanceGuard, limit: float, score: Estimate, seen: Performance) -> tuple[bool, str]:
    """Whether a score breaks the absolute limit, and the words for it."""
    beyond = Estimate((limit - score.value) * guard.direction, score.error)
    said = f"limit {apart(limit, score.value)[0]}"
    if beyond.value <= 0:
        return False, said
    if seen.worse is not None and seen.champion is not None and seen.worse.value <= 0:
        return False, f"{said} (the champion's is no better, {number(seen.champion)})"
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

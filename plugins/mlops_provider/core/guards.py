"""Guards of a rollout: what callers meet with the new version, held against what was declared."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from mlops_provider.core.latency import longer_than
from mlops_provider.core.metrics import Interval, number
from mlops_provider.core.names import WithoutData
from mlops_provider.core.payload import Payload
from mlops_provider.core.performance import Performance, PerformanceGuard, performance
from mlops_provider.core.readings import FEWEST, SURE, Reading, Verdict, judged, percent, waiting

# What guards say is part of their vocabulary: one import gives both.
__all__ = [
    "SURE",
    "AgreementGuard",
    "Decision",
    "ErrorGuard",
    "Guards",
    "LatencyGuard",
    "Observed",
    "PerformanceGuard",
    "Phase",
    "PredictionGuard",
    "Reading",
    "Soak",
    "Verdict",
    "at_least",
    "decide",
    "deviation",
    "judge",
]

Action = Literal["go_on", "wait", "roll_back", "give_up"]
Phase = Literal["beside", "shadow", "alone"]
"""Callers meet both versions, one scores in the shadow of the other, or callers meet the new one only."""


@dataclass(frozen=True, slots=True)
class Observed:
    """
    What was seen of one version in one generation of traffic.

    :param requests: Requests that it was to answer, those of a shadow included.
    :param errors: Requests among them that it did not answer: refused, failed, or too late.
    :param p99_ms: 99th percentile of the time until an answer, in milliseconds; None before the first.
    :param latencies: The times themselves, by :func:`~mlops_provider.core.latency.bucket`; empty if a target tells the
        percentile only.
    :param predictions: Predictions of a sample of the requests, in units of the target, those of a request together.
    :param pairs: Likewise predictions of a shadow, each with what was answered to the same row.
    """

    requests: int = 0
    errors: int = 0
    p99_ms: float | None = None
    latencies: Mapping[int, int] = field(default_factory=dict)
    predictions: Sequence[Sequence[float]] = ()
    pairs: Sequence[Sequence[tuple[float, float]]] = ()


@dataclass(frozen=True, slots=True)
class ErrorGuard(Payload):
    """
    A version may not fail its callers.

    :param maximum: Share of its requests that may fail, 0-1. More is a breach if it can't be chance, unless callers
        meet the champion, too, and it does not surely fail less: then the requests are to blame.
    :param minimum_requests: Requests below which nothing is judged.
    """

    maximum: float
    minimum_requests: int

    def __str__(self) -> str:
        return f"at most {percent(self.maximum)} of {self.minimum_requests} requests or more fail"


@dataclass(frozen=True, slots=True)
class LatencyGuard(Payload):
    """
    A version may not be slow. Few latencies say little about a percentile: more is a breach if it can't be chance.

    :param p99_ms: Longest 99th percentile, in milliseconds.
    :param p99_ratio: Longest 99th percentile, as a multiple of the champion's at the same time.
    :param minimum_requests: Requests below which nothing is judged; of the champion, too, if they are compared.
    """

    p99_ms: float | None
    p99_ratio: float | None
    minimum_requests: int

    def __post_init__(self) -> None:
        if self.p99_ms is None and self.p99_ratio is None:
            raise ValueError("expected p99_ms, p99_ratio or both.")

    def __str__(self) -> str:
        limits = [] if self.p99_ms is None else [f"{self.p99_ms:g} ms"]
        if self.p99_ratio is not None:
            limits.append(f"{self.p99_ratio:g} times the champion's")
        return f"p99 at most {' and '.join(limits)}, of {self.minimum_requests} answers or more"


@dataclass(frozen=True, slots=True)
class PredictionGuard(Payload):
    """
    A version may not predict something else altogether than the champion; more is a breach if it can't be chance.

    :param maximum: Largest Wasserstein distance between their predictions, in standard deviations of the champion's.
    :param minimum_rows: Predictions of each below which nothing is judged, nor below those of ten requests of each.
    """

    maximum: float
    minimum_rows: int

    def __str__(self) -> str:
        return f"at most {self.maximum:g} standard deviations from the champion's, of {self.minimum_rows} rows or more"


@dataclass(frozen=True, slots=True)
class AgreementGuard(Payload):
    """
    A version has to agree with what was answered to the same rows, which it scores as a shadow; less is a breach if it
    can't be chance.

    :param minimum: Share of the rows on which both agree, 0-1.
    :param within: Difference up to which two predictions agree, in units of the prediction.
    :param minimum_rows: Rows below which nothing is judged, nor below those of ten requests.
    """

    minimum: float
    within: float
    minimum_rows: int

    def __str__(self) -> str:
        agree = f"at least {percent(self.minimum)} of {self.minimum_rows} rows or more"
        return f"{agree} within {self.within:g} of what was answered"


@dataclass(frozen=True, slots=True)
class Guards(Payload):
    """What is watched while a version has traffic; at least one."""

    errors: ErrorGuard | None = None
    latency: LatencyGuard | None = None
    predictions: PredictionGuard | None = None
    agreement: AgreementGuard | None = None
    performance: PerformanceGuard | None = None

    def __post_init__(self) -> None:
        if not self.declared:
            raise ValueError(
                "a rollout without a guard is refused: declare at least one of "
                f"{', '.join(field.name for field in fields(self))}."
            )

    @property
    def declared(self) -> tuple[str, ...]:
        """Names of the guards there are."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def judging(self, phases: Collection[Phase]) -> tuple[str, ...]:
        """Names of the guards that judge in any of some phases; the others need what those don't have."""
        able: dict[str, set[Phase]] = {
            "errors": {"beside", "shadow", "alone"},
            "latency": {"beside", "shadow", "alone"} if self.latency and self.latency.p99_ms else {"beside"},
            "predictions": {"beside", "shadow"},
            "agreement": {"shadow"},
            "performance": {"beside", "shadow", "alone"},
        }
        if self.performance and self.performance.limit is None:
            able["performance"].remove("alone")
        return tuple(name for name in self.declared if not able[name].isdisjoint(phases))

    @property
    def sentences(self) -> tuple[str, ...]:
        """What each of them asks for, for a person."""
        return tuple(f"{name}: {getattr(self, name)}" for name in self.declared)


def judge(
    guards: Guards,
    candidate: Observed,
    champion: Observed | None,
    *,
    distance: Interval | None = None,
    shadowed: bool = False,
    pairs: Sequence[Sequence[tuple[float, float]]] = (),
    known: Performance | None = None,
) -> tuple[Reading, ...]:
    """
    Hold what was seen against every guard.

    :param candidate: The version on trial.
    :param champion: The version it replaces, in the same window; None if callers don't reach it any more.
    :param distance: Between the two's predictions, in standard deviations of the champion's; None without any.
    :param shadowed: Whether the two score the same rows.
    :param pairs: Predictions of the two on the same row, those of a request together.
    :param known: What is known of predictions whose outcomes were told.
    """
    found: list[Reading] = []
    if guards.errors:
        # What one scores in the shadow of the other is what that could answer: its failures excuse nothing.
        found.append(_errors(guards.errors, candidate, None if shadowed else champion))
    if guards.latency:
        found.append(_latency(guards.latency, candidate, champion, shadowed=shadowed))
    if guards.predictions:
        found.append(_predictions(guards.predictions, candidate, champion, distance))
    if guards.agreement:
        found.append(_agreement(guards.agreement, pairs, shadowed=shadowed))
    if guards.performance:
        found.append(performance(guards.performance, known or Performance()))
    return tuple(found)


def _errors(guard: ErrorGuard, candidate: Observed, champion: Observed | None) -> Reading:
    about = ("errors", guard.maximum, candidate.requests, guard.minimum_requests)
    if candidate.requests < guard.minimum_requests:
        return waiting(*about, unit="requests")
    share, shown = candidate.errors / candidate.requests, at_least(candidate.errors, candidate.requests)
    said = f"{candidate.errors:,} of {candidate.requests:,} requests failed ({percent(share)})"
    said += f", limit {percent(guard.maximum)}"
    if share <= guard.maximum:
        return judged("passed", *about, share, f"{said}.")
    if shown <= guard.maximum:
        return judged("passed", *about, share, f"{said}; so few may be chance.")
    if champion and champion.requests:
        theirs = champion.errors / champion.requests
        surely = surely_more((candidate.errors, candidate.requests), (champion.errors, champion.requests))
        if not surely and champion.requests < guard.minimum_requests:
            # So few excuse nothing, and condemn nothing.
            return waiting(
                "errors", guard.maximum, champion.requests, guard.minimum_requests, unit="requests of the champion"
            )
        if theirs >= share:
            return judged("passed", *about, share, f"{said}; the champion's fail as often ({percent(theirs)}).")
        said += f"; of the champion's {percent(theirs)}"
        if not surely:
            return judged("passed", *about, share, f"{said} ({champion.requests:,} requests){_CHANCE}.")
    return judged("breached", *about, share, f"{said}.")


def _latency(guard: LatencyGuard, candidate: Observed, champion: Observed | None, *, shadowed: bool) -> Reading:
    about = ("latency", guard.p99_ms, candidate.requests, guard.minimum_requests)
    answered = candidate.requests - candidate.errors
    if candidate.p99_ms is None or answered < guard.minimum_requests:
        return waiting("latency", guard.p99_ms, answered, guard.minimum_requests, unit="answers")
    said = f"p99 is {candidate.p99_ms:,.1f} ms"
    if guard.p99_ms is not None and _slower(guard.p99_ms, candidate):
        return judged("breached", *about, candidate.p99_ms, f"{said}, limit {guard.p99_ms:g} ms.")
    if guard.p99_ratio is None:
        chance = _CHANCE if candidate.p99_ms > (guard.p99_ms or math.inf) else ""
        return judged("passed", *about, candidate.p99_ms, f"{said}, limit {guard.p99_ms:g} ms{chance}.")
    if champion is None or shadowed:
        verdict: Verdict = "not_judged" if guard.p99_ms is None else "passed"
        why = "a shadow waits in another line than callers" if shadowed else "there is no champion's to compare it with"
        return judged(verdict, *about, candidate.p99_ms, f"{said}; {why}.")
    if champion.p99_ms is None or champion.requests - champion.errors < guard.minimum_requests:
        theirs = champion.requests - champion.errors
        return waiting("latency", guard.p99_ms, theirs, guard.minimum_requests, unit="answers of the champion")
    limit = guard.p99_ratio * champion.p99_ms
    said += f", {candidate.p99_ms / champion.p99_ms:.2f} times the champion's {champion.p99_ms:,.1f} ms"
    verdict = "breached" if _slower(limit, candidate, champion) else "passed"
    chance = _CHANCE if candidate.p99_ms > limit and verdict == "passed" else ""
    return judged(
        verdict, "latency", limit, candidate.requests, guard.minimum_requests, candidate.p99_ms,
        f"{said}, limit {guard.p99_ratio:g} times{chance}.",
    )  # fmt: skip


def _slower(limit: float, candidate: Observed, champion: Observed | None = None) -> bool:
    """Whether the 99th percentile is above *limit*, and, beside a *champion*, more answers are than of its."""
    if not candidate.latencies:
        return candidate.p99_ms is not None and candidate.p99_ms > limit
    slow, answers = longer_than(candidate.latencies, limit), sum(candidate.latencies.values())
    if at_least(slow, answers) <= _SLOWEST:
        return False
    if champion is None or not champion.latencies:
        return True
    return surely_more((slow, answers), (longer_than(champion.latencies, limit), sum(champion.latencies.values())))


def _predictions(
    guard: PredictionGuard, candidate: Observed, champion: Observed | None, distance: Interval | None
) -> Reading:
    sample = sum(map(len, candidate.predictions))
    if champion is None:
        return judged(
            "not_judged", "predictions", guard.maximum, sample, guard.minimum_rows, None,
            "callers reach no champion to compare with.",
        )  # fmt: skip
    sample = min(sample, sum(map(len, champion.predictions)))
    about = ("predictions", guard.maximum, sample, guard.minimum_rows)
    fewest = min(len(candidate.predictions), len(champion.predictions))
    if sample >= guard.minimum_rows and fewest < FEWEST:
        return waiting("predictions", guard.maximum, fewest, FEWEST, unit="requests of each")
    if distance is None or sample < guard.minimum_rows:
        return waiting(*about, unit="predictions of each")
    verdict, chance = _beyond(guard.maximum, distance.value, distance.low)
    said = f"{number(distance.value)} standard deviations from the champion's, limit {guard.maximum:g}"
    return judged(verdict, *about, distance.value, f"{said} ({sample:,} rows of each){chance}.")


def _agreement(guard: AgreementGuard, pairs: Sequence[Sequence[tuple[float, float]]], *, shadowed: bool) -> Reading:
    rows = sum(map(len, pairs))
    about = ("agreement", guard.minimum, rows, guard.minimum_rows)
    if not shadowed:
        return judged("not_judged", *about, None, "no rows are scored by both here; they were as a shadow.")
    if rows < guard.minimum_rows:
        return waiting(*about, unit="rows")
    if len(pairs) < FEWEST:
        return waiting("agreement", guard.minimum, len(pairs), FEWEST, unit="requests")
    apart = [(sum(abs(one - other) > guard.within for one, other in request), len(request)) for request in pairs]
    share = 1 - sum(count for count, _ in apart) / rows
    verdict, chance = _beyond(1 - guard.minimum, 1 - share, 1 - share - SURE * deviation(apart))
    said = f"{percent(share)} of {rows:,} rows within {guard.within:g} of what was answered"
    return judged(verdict, *about, share, f"{said}, limit {percent(guard.minimum)}{chance}.")


def _beyond(limit: float, value: float, at_least: float) -> tuple[Verdict, str]:
    """What a value says, of which is known what it surely is, and how a sentence about it ends."""
    if at_least > limit + _ROUNDING:
        return "breached", ""
    return "passed", _CHANCE if value > limit + _ROUNDING else ""


_CHANCE = "; it may be chance"
_SLOWEST = 0.01
"""Share of answers that may be slower than the limit of the 99th percentile."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Soak(Payload):
    """
    How long a step of a rollout is watched, by the wall clock.

    :param seconds: Shortest time.
    :param wait_at_most: Seconds beyond it in which guards may wait for their minimum samples.
    :param look_seconds: Longest pause between two looks.
    :param without_data: What becomes of a step whose guards still lack their samples then: the split before comes back
        and nothing is held against the version ("rollback"), the step is held until they have them or a person
        decides ("hold"), or it counts as passed ("proceed").
    """

    seconds: float
    wait_at_most: float
    look_seconds: float
    without_data: WithoutData


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What to do with a step of a rollout now.

    :param action: "go_on" to the next step, or settle the last; "wait"; "roll_back", for good; "give_up": back, but the
        version may come again.
    :param reasons: Why, as sentences.
    :param wait_seconds: Seconds until the next look; 0 unless the action is "wait".
    :param left_seconds: Seconds that the wait may take in all, looks in between included.
    """

    action: Action
    reasons: tuple[str, ...]
    readings: tuple[Reading, ...] = ()
    wait_seconds: float = 0.0
    left_seconds: float = 0.0


def decide(soak: Soak, readings: Sequence[Reading], *, elapsed: float) -> Decision:
    """
    Decide about a step by what its guards say.

    A breach counts at once, a pass only when the soak is over.

    :param elapsed: Seconds since the step began.
    """
    readings = tuple(readings)
    by = {verdict: [each for each in readings if each.verdict == verdict] for verdict in ("breached", "waiting")}
    if by["breached"]:
        return Decision("roll_back", tuple(each.sentence for each in by["breached"]), readings)
    sentences = tuple(each.sentence for each in readings)
    left = soak.seconds - max(elapsed, 0.0)  # clocks differ
    if left > 0:
        return Decision(
            "wait", (f"soaking for {left:.0f} s more.", *sentences), readings, min(left, soak.look_seconds), left
        )
    if not by["waiting"]:
        return Decision("go_on", sentences, readings)
    left += soak.wait_at_most
    lacking = tuple(each.sentence for each in by["waiting"])
    if left > 0:
        return Decision("wait", lacking, readings, min(left, soak.look_seconds), left)
    over = f"no minimum sample after {elapsed:.0f} s, and without_data is {soak.without_data!r}"
    if soak.without_data == "hold":
        return Decision("wait", (f"{over}: held.", *lacking), readings, soak.look_seconds, math.inf)
    return Decision("go_on" if soak.without_data == "proceed" else "give_up", (f"{over}:", *lacking), readings)


def at_least(errors: int, requests: int) -> float:
    """
    Share of requests that surely fail: the lower end of Wilson's score interval, 0-1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    :param requests: At least 1.
    """
    share, squared = errors / requests, SURE**2
    middle = share + squared / (2 * requests)
    margin = SURE * math.sqrt(share * (1 - share) / requests + squared / (4 * requests**2))
    return max(0.0, (middle - margin) / (1 + squared / requests))


def surely_more(ours: tuple[int, int], theirs: tuple[int, int]) -> bool:
    """
    Whether a share is larger than another, by as many standard deviations of their difference as it takes.

    Source: J. L. Fleiss, B. Levin, M. C. Paik, Statistical methods for rates and proportions, 3rd ed. (2003), section
    3.1, without the correction for continuity.

    :param ours: How many, and of how many; likewise *theirs*.
    """
    (count, size), (their_count, their_size) = ours, theirs
    together = (count + their_count) / (size + their_size)
    spread = math.sqrt(together * (1 - together) * (1 / size + 1 / their_size))
    return count / size - their_count / their_size > SURE * spread


def deviation(requests: Sequence[tuple[int, int]]) -> float:
    """
    Standard deviation of a share of rows that came in requests: rows of one request are alike, and say less together.

    Source: W. G. Cochran, Sampling techniques, 3rd ed. (1977), section 9A.1: a ratio of cluster totals.

    :param requests: Of each, how many of its rows count, and how many it has; at least one row in all.
    """
    rows = sum(size for _, size in requests)
    share = sum(count for count, _ in requests) / rows
    apart = sum((count - share * size) ** 2 for count, size in requests)
    return math.sqrt(apart * len(requests) / max(len(requests) - 1, 1)) / rows

"""Guards of a rollout: what callers meet with the new version, held against what was declared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from mlops_provider.core.metrics import number
from mlops_provider.core.names import WithoutData
from mlops_provider.core.payload import Payload

Verdict = Literal["passed", "breached", "waiting", "not_judged"]
Action = Literal["go_on", "wait", "roll_back", "give_up"]

_SURE = 3.0
"""Standard deviations by which a share of errors has to be above its limit."""


@dataclass(frozen=True, slots=True)
class Observed:
    """
    What was seen of one version in one generation of traffic.

    :param requests: Requests that it was to answer, those of a shadow included.
    :param errors: Requests among them that it did not answer: refused, failed, or too late.
    :param p99_ms: 99th percentile of the time until an answer, in milliseconds; None before the first.
    :param predictions: The newest predictions, in units of the target.
    :param pairs: The newest predictions of a shadow, each with what was answered to the same row.
    """

    requests: int = 0
    errors: int = 0
    p99_ms: float | None = None
    predictions: Sequence[float] = ()
    pairs: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class ErrorGuard(Payload):
    """
    A version may not fail its callers.

    :param maximum: Share of its requests that may fail, 0-1. More is a breach if it can't be chance, unless the
        champion fails as many: then the requests are to blame.
    :param minimum_requests: Requests below which nothing is judged.
    """

    maximum: float
    minimum_requests: int

    def __str__(self) -> str:
        return f"at most {percent(self.maximum)} of {self.minimum_requests} requests or more fail"


@dataclass(frozen=True, slots=True)
class LatencyGuard(Payload):
    """
    A version may not be slow.

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
    A version may not predict something else altogether than the champion.

    :param maximum: Largest Wasserstein distance between their predictions, in standard deviations of the champion's.
    :param minimum_rows: Predictions of each below which nothing is judged.
    """

    maximum: float
    minimum_rows: int

    def __str__(self) -> str:
        return f"at most {self.maximum:g} standard deviations from the champion's, of {self.minimum_rows} rows or more"


@dataclass(frozen=True, slots=True)
class AgreementGuard(Payload):
    """
    A version has to agree with what was answered to the same rows, which it scores as a shadow.

    :param minimum: Share of the rows on which both agree, 0-1.
    :param within: Difference up to which two predictions agree, in units of the prediction.
    :param minimum_rows: Rows below which nothing is judged.
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

    @property
    def sentences(self) -> tuple[str, ...]:
        """What each of them asks for, for a person."""
        return tuple(f"{name}: {getattr(self, name)}" for name in self.declared)


@dataclass(frozen=True, slots=True)
class Reading(Payload):
    """
    What one guard made of what was seen.

    :param value: What was measured; None without a sample.
    :param limit: What it is held against.
    :param sample: Requests or rows that were seen.
    :param minimum: How many it takes.
    :param sentence: The same for a person.
    """

    guard: str
    verdict: Verdict
    value: float | None
    limit: float | None
    sample: int
    minimum: int
    sentence: str


def judge(
    guards: Guards,
    candidate: Observed,
    champion: Observed | None,
    *,
    distance: float | None = None,
    shadowed: bool = False,
    pairs: Sequence[tuple[float, float]] = (),
) -> tuple[Reading, ...]:
    """
    Hold what was seen against every guard.

    :param candidate: The version on trial.
    :param champion: The version it replaces, in the same window; None if callers don't reach it any more.
    :param distance: Between the two's predictions, in standard deviations; None if one has too few.
    :param shadowed: Whether the two score the same rows.
    :param pairs: Predictions of the two on the same row.
    """
    found: list[Reading] = []
    if guards.errors:
        found.append(_errors(guards.errors, candidate, champion))
    if guards.latency:
        found.append(_latency(guards.latency, candidate, champion, shadowed=shadowed))
    if guards.predictions:
        found.append(_predictions(guards.predictions, candidate, champion, distance))
    if guards.agreement:
        found.append(_agreement(guards.agreement, pairs, shadowed=shadowed))
    return tuple(found)


def _errors(guard: ErrorGuard, candidate: Observed, champion: Observed | None) -> Reading:
    about = ("errors", guard.maximum, candidate.requests, guard.minimum_requests)
    if candidate.requests < guard.minimum_requests:
        return _waiting(*about, unit="requests")
    share, shown = candidate.errors / candidate.requests, at_least(candidate.errors, candidate.requests)
    said = f"{candidate.errors:,} of {candidate.requests:,} requests failed ({percent(share)})"
    said += f", limit {percent(guard.maximum)}"
    if share <= guard.maximum:
        return _judged("passed", *about, share, f"{said}.")
    if champion and champion.requests >= guard.minimum_requests:
        theirs = champion.errors / champion.requests
        if theirs >= shown:
            return _judged("passed", *about, share, f"{said}; the champion's fail as often ({percent(theirs)}).")
        said += f"; of the champion's {percent(theirs)}"
    if shown <= guard.maximum:
        return _judged("passed", *about, share, f"{said}; so few may be chance.")
    return _judged("breached", *about, share, f"{said}.")


def _latency(guard: LatencyGuard, candidate: Observed, champion: Observed | None, *, shadowed: bool) -> Reading:
    about = ("latency", guard.p99_ms, candidate.requests, guard.minimum_requests)
    answered = candidate.requests - candidate.errors
    if candidate.p99_ms is None or answered < guard.minimum_requests:
        return _waiting("latency", guard.p99_ms, answered, guard.minimum_requests, unit="answers")
    said = f"p99 is {candidate.p99_ms:,.1f} ms"
    if guard.p99_ms is not None and candidate.p99_ms > guard.p99_ms:
        return _judged("breached", *about, candidate.p99_ms, f"{said}, limit {guard.p99_ms:g} ms.")
    if guard.p99_ratio is None:
        return _judged("passed", *about, candidate.p99_ms, f"{said}, limit {guard.p99_ms:g} ms.")
    if champion is None or shadowed:
        verdict: Verdict = "not_judged" if guard.p99_ms is None else "passed"
        why = "a shadow waits in another line than callers" if shadowed else "there is no champion's to compare it with"
        return _judged(verdict, *about, candidate.p99_ms, f"{said}; {why}.")
    if champion.p99_ms is None or champion.requests - champion.errors < guard.minimum_requests:
        theirs = champion.requests - champion.errors
        return _waiting("latency", guard.p99_ms, theirs, guard.minimum_requests, unit="answers of the champion")
    limit = guard.p99_ratio * champion.p99_ms
    verdict = "breached" if candidate.p99_ms > limit else "passed"
    said += f", {candidate.p99_ms / champion.p99_ms:.2f} times the champion's {champion.p99_ms:,.1f} ms"
    return _judged(
        verdict, "latency", limit, candidate.requests, guard.minimum_requests, candidate.p99_ms,
        f"{said}, limit {guard.p99_ratio:g} times.",
    )  # fmt: skip


def _predictions(
    guard: PredictionGuard, candidate: Observed, champion: Observed | None, distance: float | None
) -> Reading:
    if champion is None:
        return _judged(
            "not_judged", "predictions", guard.maximum, len(candidate.predictions), guard.minimum_rows, None,
            "callers reach no champion to compare with.",
        )  # fmt: skip
    sample = min(len(candidate.predictions), len(champion.predictions))
    about = ("predictions", guard.maximum, sample, guard.minimum_rows)
    if distance is None or sample < guard.minimum_rows:
        return _waiting(*about, unit="predictions of each")
    verdict: Verdict = "breached" if distance > guard.maximum else "passed"
    said = f"{number(distance)} standard deviations from the champion's, limit {guard.maximum:g}"
    return _judged(verdict, *about, distance, f"{said} ({sample:,} rows of each).")


def _agreement(guard: AgreementGuard, pairs: Sequence[tuple[float, float]], *, shadowed: bool) -> Reading:
    about = ("agreement", guard.minimum, len(pairs), guard.minimum_rows)
    if not shadowed:
        return _judged("not_judged", *about, None, "no rows are scored by both here; they were as a shadow.")
    if len(pairs) < guard.minimum_rows:
        return _waiting(*about, unit="rows")
    share = sum(abs(one - other) <= guard.within for one, other in pairs) / len(pairs)
    said = f"{percent(share)} of {len(pairs):,} rows within {guard.within:g} of what was answered"
    verdict: Verdict = "breached" if share < guard.minimum else "passed"
    return _judged(verdict, *about, share, f"{said}, limit {percent(guard.minimum)}.")


def _judged(  # noqa: PLR0917 - a row of readings is spelled as a row
    verdict: Verdict, guard: str, limit: float | None, sample: int, minimum: int, value: float | None, said: str
) -> Reading:
    return Reading(guard, verdict, value, limit, sample, minimum, f"{guard}: {said}")


def _waiting(guard: str, limit: float | None, sample: int, minimum: int, *, unit: str) -> Reading:
    return Reading(
        guard, "waiting", None, limit, sample, minimum, f"{guard}: {sample:,} {unit} so far, {minimum:,} are needed."
    )


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
    left = soak.seconds - elapsed
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

    Guards look again and again, and one breach is final, so it is a wide one: of a version that fails exactly as often
    as it may, one look in 700 finds more. Source: E. B. Wilson, Probable inference, the law of succession, and
    statistical inference, 1927.

    :param requests: At least 1.
    """
    share, squared = errors / requests, _SURE**2
    middle = share + squared / (2 * requests)
    margin = _SURE * math.sqrt(share * (1 - share) / requests + squared / (4 * requests**2))
    return max(0.0, (middle - margin) / (1 + squared / requests))


def percent(share: float) -> str:
    """Write a share for a sentence: ``1.5 %``."""
    return f"{100 * share:.3g} %"

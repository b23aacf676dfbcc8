"""Whether to retrain, and why; reads data time only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from mlops_provider.core import partitions
from mlops_provider.core.metrics import DIRECTIONS, Interval, apart, number
from mlops_provider.core.payload import Payload

MONTHS_FOR_FIRST_MODEL = 2
"""One to train on, one to gate on."""

Trigger = Literal["first_model", "performance", "drift", "age", "none"]


@dataclass(frozen=True, slots=True)
class Drop(Payload):
    """
    A loss of the primary metric, always towards worse.

    :param amount: In units of the metric; as a share of the score at the gate, 0.1 for 10 %, if *relative*.
    """

    amount: float
    relative: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.amount) and self.amount >= 0):
            raise ValueError(f"a drop must be 0 or more, got {self.amount}.")

    def of(self, expected: float) -> float:
        """Return the drop in units of the metric, against a score of *expected*."""
        return self.amount * abs(expected) if self.relative else self.amount

    def against(self, expected: float) -> str:
        """Write it for a sentence about a score of *expected*."""
        tolerated = number(self.of(expected))
        return f"{tolerated} ({100 * self.amount:g} %)" if self.relative else tolerated


@dataclass(frozen=True, slots=True)
class RetrainPolicy(Payload):
    """
    When to retrain.

    :param windows_needed: Bad windows among those considered that it takes, the latest being one of them.
    :param windows_considered: Newest windows looked at.
    :param performance_drop: Loss against the score at the gate that is tolerated.
    :param max_age_days: Days after the end of its training data until a champion is too old.
    :param cooldown_days: Days of data time after a retraining in which there is no other.
    """

    windows_needed: int
    windows_considered: int
    performance_drop: Drop
    max_age_days: int
    cooldown_days: int

    def __post_init__(self) -> None:
        if not 1 <= self.windows_needed <= self.windows_considered:
            raise ValueError(
                f"{self.windows_needed} of {self.windows_considered} windows is not possible: "
                "need at least 1 and at most as many as are considered."
            )


@dataclass(frozen=True, slots=True)
class Window(Payload):
    """
    One month that the current champion served.

    :param score: Its primary metric on the labels of the month; None where there were too few.
    :param expected: The champion's score at its gate.
    :param drift_alarm: The drift verdict of the month was an alarm.
    """

    partition: str
    score: Interval | None
    expected: float | None
    drift_alarm: bool


@dataclass(frozen=True, slots=True)
class RetrainDecision(Payload):
    """
    Retrain or not, and why.

    :param trigger: The weightiest trigger that fired; "none" without a retraining.
    :param reasons: Sentences, for a retraining as for none.
    :param cause: Names this retraining the same way however often it is decided: the run ID of training.
    """

    retrain: bool
    trigger: Trigger
    reasons: tuple[str, ...]
    cause: str | None


def decide(
    policy: RetrainPolicy,
    windows: Sequence[Window],
    *,
    model: str,
    champion: str | None,
    trained_through: str | None,
    months_available: int,
    last_retrain: datetime | None,
    as_of: datetime,
    partition: str | None = None,
    metric: str = "roc_auc",
) -> RetrainDecision:
    """
    Decide on a retraining.

    :param windows: Months the current champion served, oldest first; months it did not serve are left out.
    :param trained_through: Last month the champion was trained on.
    :param months_available: Months with features and labels.
    :param last_retrain: Data time of the last retraining that was started.
    :param as_of: Data time of this decision.
    :param partition: Month under review; if left out, that of the newest window, else the month of *as_of*.
    :param metric: Primary metric, for its direction and the sentences.
    """
    month = partition or (windows[-1].partition if windows else f"{as_of:%Y-%m}")
    if champion is None:
        return _first_model(model, month, months_available)

    fired: list[tuple[Trigger, str]] = []
    quiet: list[str] = []
    findings: tuple[tuple[Trigger, tuple[bool, str]], ...] = (
        ("performance", _performance(policy, windows, metric)),
        ("drift", _drift(policy, windows)),
        ("age", _age(policy, champion, trained_through, as_of)),
    )
    for trigger, (fires, sentence) in findings:
        if fires:
            fired.append((trigger, sentence))
        else:
            quiet.append(sentence)

    if not fired:
        return RetrainDecision(retrain=False, trigger="none", reasons=tuple(quiet), cause=None)
    sentences = tuple(sentence for _, sentence in fired)
    if resting := _cooldown(policy, last_retrain, as_of):
        return RetrainDecision(retrain=False, trigger="none", reasons=(resting, *sentences), cause=None)
    trigger = fired[0][0]
    return RetrainDecision(retrain=True, trigger=trigger, reasons=sentences, cause=f"{model}-{trigger}-{month}")


def _first_model(model: str, month: str, months: int) -> RetrainDecision:
    """Without a champion there is nothing to lose: no cooldown, a refused first model is tried again next month."""
    if months < MONTHS_FOR_FIRST_MODEL:
        waiting = (
            f"No champion yet, and {months} of {MONTHS_FOR_FIRST_MODEL} months of data: "
            "the first model needs one month to train on and one for the gate."
        )
        return RetrainDecision(retrain=False, trigger="none", reasons=(waiting,), cause=None)
    ready = f"No champion yet, and {months} months of data: time for the first model."
    return RetrainDecision(retrain=True, trigger="first_model", reasons=(ready,), cause=f"{model}-first_model-{month}")


def _performance(policy: RetrainPolicy, windows: Sequence[Window], metric: str) -> tuple[bool, str]:
    if not windows:
        return False, "The champion has served no month with labels yet."
    latest = windows[-1]
    if latest.score is None or latest.expected is None:
        return False, f"Performance in {latest.partition} is unknown: too few labels."
    considered = [window for window in windows if window.score is not None][-policy.windows_considered :]
    bad = [window.partition for window in considered if _worse(window, policy.performance_drop, metric)]
    shown, expected = apart(latest.score.value, latest.expected)
    sentence = (
        f"{metric} {shown} ({number(latest.score.low)} to {number(latest.score.high)}) in {latest.partition}, "
        f"{expected} at the gate, tolerated drop {policy.performance_drop.against(latest.expected)}"
    )
    if latest.partition not in bad:
        return False, f"{sentence}: as expected." if not bad else f"{sentence}: fine again after {', '.join(bad)}."
    return len(bad) >= policy.windows_needed, f"{sentence}: worse, {_count(bad, considered, policy)}."


def _worse(window: Window, drop: Drop, metric: str) -> bool:
    """The whole interval lies on the wrong side of what is tolerated."""
    if window.score is None or window.expected is None:
        return False
    if DIRECTIONS.get(metric, +1) < 0:
        return window.score.low > window.expected + drop.of(window.expected)
    return window.score.high < window.expected - drop.of(window.expected)


def _drift(policy: RetrainPolicy, windows: Sequence[Window]) -> tuple[bool, str]:
    considered = windows[-policy.windows_considered :]
    alarms = [window.partition for window in considered if window.drift_alarm]
    if not alarms:
        return False, f"No drift alarm in {_plural(len(considered), 'window')}."
    if not considered[-1].drift_alarm:
        return False, f"No drift alarm in {considered[-1].partition}; the last was in {alarms[-1]}."
    return (
        len(alarms) >= policy.windows_needed,
        f"Drift alarm in {considered[-1].partition}, {_count(alarms, considered, policy)}.",
    )


def _age(policy: RetrainPolicy, champion: str, trained_through: str | None, as_of: datetime) -> tuple[bool, str]:
    if trained_through is None:
        return False, f"The age of version {champion} is unknown: it does not say which month it was trained through."
    days = (as_of - partitions.end(trained_through)).days
    sentence = (
        f"Version {champion} was trained through {trained_through}, {_plural(days, 'day')} ago, "
        f"limit {_plural(policy.max_age_days, 'day')}"
    )
    return days > policy.max_age_days, f"{sentence}: too old." if days > policy.max_age_days else f"{sentence}."


def _cooldown(policy: RetrainPolicy, last_retrain: datetime | None, as_of: datetime) -> str | None:
    if last_retrain is None or as_of - last_retrain >= timedelta(days=policy.cooldown_days):
        return None
    if last_retrain > as_of:
        return f"Would retrain, but a later month already did, as of {last_retrain:%Y-%m-%d}."
    return (
        f"Would retrain, but the last retraining was {_plural((as_of - last_retrain).days, 'day')} ago, "
        f"cooldown {_plural(policy.cooldown_days, 'day')}."
    )


def _count(bad: Sequence[str], considered: Sequence[Window], policy: RetrainPolicy) -> str:
    return f"{len(bad)} of the last {_plural(len(considered), 'window')}, {policy.windows_needed} needed"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

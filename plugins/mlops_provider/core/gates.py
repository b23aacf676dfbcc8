"""The gate: whether a candidate has earned its place, in words and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mlops_provider.core.evaluation import CANDIDATE, CHAMPION, Comparison, Contender, Evaluation, SliceScore
from mlops_provider.core.evidence import canonical
from mlops_provider.core.fairness import FairnessLimit, findings
from mlops_provider.core.metrics import DIRECTIONS, Interval, apart, number, signed
from mlops_provider.core.payload import Payload

# What the gate reads is part of its vocabulary: one import gives both.
__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "Comparison",
    "Contender",
    "Evaluation",
    "FairnessLimit",
    "GatePolicy",
    "Limit",
    "Mode",
    "SliceCeiling",
    "SliceFloor",
    "SliceScore",
    "Verdict",
    "decide",
]

Mode = Literal["enabled", "dry_run", "disabled"]

FEW_BLOCKS = 20
"""Resampled blocks below which a warning is due."""

SHOWN = 10
"""Reasons listed at most in a summary; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Limit(Payload):
    """Bounds of a metric of the candidate, in its own units, both included; None for no bound."""

    metric: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class SliceFloor(Payload):
    """
    What every slice must reach.

    :param metric: A metric where more is better.
    :param minimum: Lowest score allowed.
    :param minimum_rows: Rows below which a slice is too small to judge.
    """

    metric: str
    minimum: float
    minimum_rows: int

    def __post_init__(self) -> None:
        if DIRECTIONS.get(self.metric, +1) < 0:
            raise ValueError(
                f"a floor needs a metric where more is better; {self.metric!r} is better when less: give a ceiling."
            )

    name = "floor"
    missed = "below the floor"
    extreme = "lowest"

    @property
    def bound(self) -> float:
        """The lowest score allowed."""
        return self.minimum

    def beyond(self, score: float) -> bool:
        """Whether a score misses it."""
        return score < self.minimum


@dataclass(frozen=True, slots=True)
class SliceCeiling(Payload):
    """
    What no slice may exceed.

    :param metric: A metric where less is better.
    :param maximum: Highest score allowed.
    :param minimum_rows: Rows below which a slice is too small to judge.
    """

    metric: str
    maximum: float
    minimum_rows: int

    def __post_init__(self) -> None:
        if DIRECTIONS.get(self.metric, -1) > 0:
            raise ValueError(
                f"a ceiling needs a metric where less is better; {self.metric!r} is better when more: give a floor."
            )

    name = "ceiling"
    missed = "above the ceiling"
    extreme = "highest"

    @property
    def bound(self) -> float:
        """The highest score allowed."""
        return self.maximum

    def beyond(self, score: float) -> bool:
        """Whether a score misses it."""
        return score > self.maximum


@dataclass(frozen=True, slots=True)
class GatePolicy(Payload):
    """
    What a candidate has to show, fixed before it is trained.

    :param primary: Metric on which champion and baselines must be beaten.
    :param baselines: Simple models to beat, such as "dummy" and "linear".
    :param slice_floor: What every slice must reach; either this or a ceiling.
    :param minimum_rows: Rows below which nothing can be concluded.
    :param mode: "dry_run" lets everything pass and says what would have happened; "disabled" checks nothing.
    :param mode_reason: Why the gate is disabled.
    :param slice_ceiling: What no slice may exceed.
    :param fairness: How far groups of people may lie apart.
    :param proxy_auc: ROC AUC from which a feature is named as a proxy of a protected attribute, 0-1.
    :param not_worse_than: Contenders that need not be beaten, but that the candidate must not be shown worse than: the
        parent of a model of segments.
    """

    primary: str
    limits: tuple[Limit, ...]
    baselines: tuple[str, ...]
    slice_floor: SliceFloor | None
    minimum_rows: int
    mode: Mode = "enabled"
    mode_reason: str = ""
    slice_ceiling: SliceCeiling | None = None
    fairness: tuple[FairnessLimit, ...] = ()
    proxy_auc: float = 0.75
    not_worse_than: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.slice_floor and self.slice_ceiling:
            raise ValueError("slices have either a floor or a ceiling: they are scored by one metric.")
        if self.mode == "disabled" and not self.mode_reason.strip():
            raise ValueError("a disabled gate needs a reason: it is recorded with every verdict.")

    @property
    def slice_bound(self) -> SliceFloor | SliceCeiling | None:
        """What slices are held to."""
        return self.slice_floor or self.slice_ceiling

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of everything above."""
        declared = self.as_json()
        if not self.not_worse_than:  # limits without it keep the digest they had before there was one
            del declared["not_worse_than"]
        return hashlib.sha256(canonical(declared).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict(Payload):
    """
    The gate's answer.

    :param reasons: Why the candidate was rejected; none if it passed.
    :param warnings: What somebody should look at although it passed.
    :param notes: What was checked and held.
    """

    passed: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    mode: str
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One paragraph: the answer, then why. At most ten reasons; the rest is counted."""
        said = (*self.warnings, *self.notes) if self.passed else self.reasons
        rest = len(said) - SHOWN
        more = (f"And {rest} more.",) if rest > 0 else ()
        return " ".join(("Passed." if self.passed else "Rejected.", *said[:SHOWN], *more))


@dataclass(slots=True)
class _Findings:
    """What the checks say, while they are running."""

    reasons: list[str]
    warnings: list[str]
    notes: list[str]


def decide(
    policy: GatePolicy, evaluation: Evaluation, *, declared_digest: str, champion_version: str | None
) -> Verdict:
    """
    Decide whether the candidate passes.

    What makes the evaluation itself worthless (changed thresholds, another champion, no candidate) rejects in every
    mode: else switching the mode after training would be a way round the gate.

    :param declared_digest: Digest of the policy that was declared before training.
    :param champion_version: Champion pinned when the gate was declared; None if there was none, empty if it has no
        version, as in predictions that somebody else made.
    """
    invalid = tuple(_invalid(policy, evaluation, declared_digest, champion_version))
    if invalid:
        return Verdict(passed=False, reasons=invalid, warnings=(), mode=policy.mode)
    if policy.mode == "disabled":
        unchecked = f"The gate is disabled and checked nothing. Reason given: {policy.mode_reason.strip()}"
        return Verdict(passed=True, reasons=(), warnings=(unchecked,), mode=policy.mode)

    found = _Findings([], [], [])
    _check_rows(policy, evaluation, found)
    for limit in policy.limits:
        _check_limit(limit, evaluation, found)
    if champion_version is None:
        found.notes.append("There is no champion to beat: this is the first.")
    else:
        called = f"champion, version {champion_version}" if champion_version else "champion"
        _check_better(CHAMPION, called, policy.primary, evaluation, found)
    for baseline in policy.baselines:
        _check_better(baseline, f"{baseline} baseline", policy.primary, evaluation, found)
    for opponent in policy.not_worse_than:
        _check_not_worse(opponent, policy.primary, evaluation, found)
    if policy.slice_bound:
        _check_slices(policy.slice_bound, evaluation, found)
    for kind, sentence in findings(policy.fairness, evaluation.fairness):
        {"reason": found.reasons, "warning": found.warnings, "note": found.notes}[kind].append(sentence)
    _check_blocks(evaluation, found)

    if policy.mode == "dry_run":
        would = [f"Would have been rejected: {reason}" for reason in found.reasons]
        found.notes.insert(0, "Dry run: " + ("rejections are only said." if would else "would have passed too."))
        found.reasons, found.warnings = [], [*would, *found.warnings]
    return Verdict(
        passed=not found.reasons,
        reasons=tuple(found.reasons),
        warnings=tuple(found.warnings),
        mode=policy.mode,
        notes=tuple(found.notes),
    )


def _invalid(
    policy: GatePolicy, evaluation: Evaluation, declared_digest: str, champion_version: str | None
) -> Iterator[str]:
    """Yield what makes the evaluation no basis for a verdict."""
    if policy.digest != declared_digest:
        yield (
            f"The thresholds changed after training began: digests {declared_digest[:12]} and {policy.digest[:12]} "
            "differ. Train again under the new ones."
        )
    if evaluation.champion_version != champion_version:
        yield (
            f"The champion changed: {_champion(champion_version)} when the gate was declared, "
            f"{_champion(evaluation.champion_version)} at the evaluation. Train again."
        )
    candidate, champion = evaluation.of(CANDIDATE), evaluation.of(CHAMPION)
    if candidate is None:
        yield f"The evaluation of run {evaluation.run_id!r} has no candidate in it."
    elif candidate.version is not None and candidate.version == champion_version:
        yield f"Candidate and champion are the same version, {candidate.version}."
    if champion is not None and champion.version != evaluation.champion_version:
        yield (
            f"The evaluation scored {_champion(champion.version)} but names {_champion(evaluation.champion_version)}."
        )


def _champion(version: str | None) -> str:
    return "no champion" if version is None else f"version {version}"


def _check_rows(policy: GatePolicy, evaluation: Evaluation, found: _Findings) -> None:
    rows = f"{evaluation.rows:,} rows" + (f" of {evaluation.partition}" if evaluation.partition else "")
    if evaluation.rows < policy.minimum_rows:
        found.reasons.append(f"Too few rows to judge: {rows}, at least {policy.minimum_rows:,} needed.")
    else:
        found.notes.append(f"Evaluated on {rows}.")


def _check_limit(limit: Limit, evaluation: Evaluation, found: _Findings) -> None:
    """Compare the value with its limit; an interval that crosses the limit is a warning."""
    score = evaluation.score(CANDIDATE, limit.metric)
    if score is None:
        found.reasons.append(f"{limit.metric} has a limit but was not measured.")
        return
    for bound, side, value_off, interval_off in (
        (limit.minimum, "below the minimum", -1, score.low),
        (limit.maximum, "above the maximum", +1, score.high),
    ):
        if bound is None:
            continue
        shown, limit_shown = apart(score.value, bound)
        interval = f"interval {number(score.low)} to {number(score.high)}"
        if (score.value - bound) * value_off > 0:
            found.reasons.append(f"{limit.metric} {shown} is {side} {limit_shown} ({interval}).")
        elif (interval_off - bound) * value_off > 0:
            found.warnings.append(f"{limit.metric} {shown} could be {side} {limit_shown}: {interval}.")
        else:
            found.notes.append(f"{limit.metric} {shown} keeps the {side.split()[-1]} {limit_shown} ({interval}).")


def _check_better(opponent: str, called: str, metric: str, evaluation: Evaluation, found: _Findings) -> None:
    """The candidate is better only if the whole interval of the difference says so."""
    difference = evaluation.against(opponent, metric)
    if difference is None:
        found.reasons.append(f"{metric} was not compared with the {called}.")
        return
    better, apart_by = _told(opponent, metric, evaluation, difference)
    if difference.low > 0:
        found.notes.append(f"Better than the {called}: {better}.")
    elif difference.high < 0:
        found.reasons.append(f"Worse than the {called}: {apart_by}.")
    elif difference.low == difference.high == 0:
        found.reasons.append(f"Not better than the {called}: {metric} is the same in every resample, as of one model.")
    else:
        found.reasons.append(f"Not better than the {called}: {apart_by} is inside the noise.")


def _check_not_worse(opponent: str, metric: str, evaluation: Evaluation, found: _Findings) -> None:
    """The candidate fails only if the whole interval of the difference lies below 0."""
    difference = evaluation.against(opponent, metric)
    if difference is None:
        found.reasons.append(f"{metric} was not compared with the {opponent}.")
        return
    better, apart_by = _told(opponent, metric, evaluation, difference)
    if difference.high < 0:
        found.reasons.append(f"Worse than its own {opponent}: {apart_by}.")
    elif difference.low > 0:
        found.notes.append(f"Better than its own {opponent}: {better}.")
    elif difference.low == difference.high == 0:
        found.notes.append(f"The same as its own {opponent}: on these rows no segment is answered by another model.")
    else:
        found.notes.append(f"Not worse than its own {opponent}: {apart_by}.")


def _told(opponent: str, metric: str, evaluation: Evaluation, difference: Interval) -> tuple[str, str]:
    """Give the numbers of a comparison as those of a candidate that is better, and as those of another one."""
    ours, theirs = evaluation.score(CANDIDATE, metric), evaluation.score(opponent, metric)
    values = ""
    if ours is not None and theirs is not None:
        values = "{} against {}, ".format(*apart(ours.value, theirs.value))
    numbers = f"{signed(difference.value)} ({signed(difference.low)} to {signed(difference.high)})"
    return f"{metric} {values}better by {numbers}", f"{metric} {values}difference {numbers}"


def _check_slices(bound: SliceFloor | SliceCeiling, evaluation: Evaluation, found: _Findings) -> None:
    scores = [one for one in evaluation.slices if one.metric == bound.metric]
    worst_first = sorted(scores, key=lambda one: one.score.value * DIRECTIONS.get(bound.metric, +1))
    judged = [one for one in worst_first if one.rows >= bound.minimum_rows]
    for one in judged:
        if bound.beyond(one.score.value):
            shown, limit = apart(one.score.value, bound.bound)
            found.reasons.append(
                f"Slice {one.column}={one.value} ({one.rows:,} rows): {bound.metric} {shown} is {bound.missed} "
                f"{limit} (interval {number(one.score.low)} to {number(one.score.high)})."
            )
    if not scores:
        found.reasons.append(f"There is a {bound.name} for slices, but no slice was measured with {bound.metric}.")
    elif not judged:
        largest = max(one.rows for one in scores)
        found.warnings.append(
            f"No slice could be judged: the largest of {len(scores)} has {largest:,} rows, "
            f"{bound.minimum_rows:,} needed."
        )
    else:
        worst = judged[0]
        small = len(scores) - len(judged)
        skipped = f"; {small} smaller than {bound.minimum_rows:,} rows not judged" if small else ""
        found.notes.append(
            f"{len(judged)} slices judged, {bound.extreme} {worst.column}={worst.value} with "
            f"{bound.metric} {number(worst.score.value)}{skipped}."
        )


def _check_blocks(evaluation: Evaluation, found: _Findings) -> None:
    """Few blocks make intervals too narrow: Cameron, Gelbach and Miller, "Bootstrap-based improvements" (2008)."""
    if evaluation.blocks is not None and evaluation.blocks < FEW_BLOCKS:
        found.warnings.append(
            f"The intervals rest on {evaluation.blocks} blocks ({evaluation.block}), and are too narrow with fewer "
            f"than {FEW_BLOCKS}: declare smaller blocks."
        )

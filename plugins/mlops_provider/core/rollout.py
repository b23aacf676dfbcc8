"""How traffic moves from one version to the next, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlops_provider.core.guards import Guards, Phase, Soak
from mlops_provider.core.names import Strategy
from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import ConcurrentWriteError, RolloutRefusedError


@dataclass(frozen=True, slots=True)
class Traffic(Payload):
    """
    Which versions of a model shall serve, and how much.

    :param generation: Rises by one with each record of the model, from 1.
    :param split: Version to percent, 0-100, 100 in all. 0 means loaded, without traffic.
    :param settled: The rollout is over and this split was verified; a rollback may return to it.
    :param reason: Why traffic moved, for a person.
    :param shadow: Versions with 0 percent of the split that score, unseen, what others answered.
    """

    model: str
    generation: int
    split: Mapping[str, int]
    settled: bool
    reason: str = ""
    shadow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.generation < 1:
            raise ValueError(f"generations count from 1, got {self.generation}.")
        if any(not 0 <= percent <= 100 for percent in self.split.values()):
            raise ValueError(f"each share must be 0-100 percent, got {describe(self.split)}.")
        if sum(self.split.values()) != 100:
            raise ValueError(f"the shares must sum to 100 percent, got {describe(self.split)}.")
        if visible := [version for version in self.shadow if self.split.get(version) != 0]:
            raise ValueError(f"a shadow must be in the split, with 0 percent: version {visible[0]} is not.")


@dataclass(frozen=True, slots=True)
class Step(Payload):
    """
    One generation of a rollout.

    :param split: Version to percent, 100 in all.
    :param shadow: Versions that score, unseen, what others answered.
    :param watched: Whether it is soaked in, and the guards must pass, before the next one.
    """

    split: Mapping[str, int]
    shadow: tuple[str, ...] = ()
    watched: bool = False


@dataclass(frozen=True, slots=True)
class RolloutPolicy(Payload):
    """
    How traffic moves to a new version, as model.yaml declares it.

    :param steps: Percent for the new version after each step of a canary, rising to 100.
    """

    strategy: Strategy
    steps: tuple[int, ...]
    soak: Soak
    guards: Guards

    def __post_init__(self) -> None:
        """Refuse steps that do not rise to 100, and guards of which none would judge in any step."""
        check_steps(self.steps)
        if self.guards.judging(self.phases):
            return
        how = f"{self.strategy}, steps {list(self.steps)}" if self.strategy == "canary" else self.strategy
        raise ValueError(
            f"with {how}, none of the declared guards would judge anything ({', '.join(self.guards.declared)}): "
            "callers never meet both versions. Declare errors, latency.p99_ms or performance.limit, which need no "
            "champion, or a canary with steps before 100."
        )

    @property
    def phases(self) -> frozenset[Phase]:
        """How the watched steps let callers meet the new version."""
        beside: set[Phase] = {"beside"} if self.shares[0] < 100 else set()
        last: set[Phase] = {"alone"} if self.strategy in ("canary", "all_at_once") else set()
        unseen: set[Phase] = {"shadow"} if self.shadows else set()
        return frozenset(beside | last | unseen)

    @property
    def shares(self) -> tuple[int, ...]:
        """Percent for the new version after each step that gives it some."""
        return self.steps if self.strategy == "canary" else (100,)

    @property
    def shadows(self) -> bool:
        """Whether the version first scores, unseen, what others answer; only so can it agree with the answers."""
        return self.strategy in ("shadow", "blue_green") or self.guards.agreement is not None


def plan(current: Traffic | None, candidate: str, policy: RolloutPolicy) -> tuple[Step, ...]:
    """
    Return the steps that bring *candidate* to all traffic, in order; after the last one it settles.

    The first loads the candidate beside what serves, at the share it has (0 when new, more when an interrupted rollout
    of it goes on); in the last it has all traffic. Without a current split the candidate gets everything at once, for
    there is nobody to answer in its place, and nothing to compare it with. No other version ever gains traffic.

    :raises ConcurrentWriteError: Another version's rollout is not settled. Retried.
    """
    if current is None:
        return (Step({candidate: 100}),)
    if not current.settled and candidate not in current.split:
        raise ConcurrentWriteError(
            f"Version {candidate} of {current.model!r} has to wait: generation {current.generation} "
            f"({describe(current.split)}) belongs to a rollout that has not settled. Let it finish or roll it back, "
            f"then deploy version {candidate} again."
        )
    reached = current.split.get(candidate, 0)
    if reached == 100:
        return (_last(candidate, current.split, policy),)
    beside = {version: share for version, share in current.split.items() if share} | {candidate: reached}
    unseen = (candidate,) if policy.shadows and not reached else ()
    entries = [Step(beside, unseen, watched=bool(unseen or reached))]
    for share in policy.shares:
        if share == 100:
            entries.append(_last(candidate, entries[-1].split, policy))
        elif share > reached:
            entries.append(Step(_next_split(entries[-1].split, candidate, share), watched=True))
    return tuple(entries)


def _last(candidate: str, before: Mapping[str, int], policy: RolloutPolicy) -> Step:
    """All traffic for the candidate. In blue-green the others stay loaded, and are compared with it as shadows."""
    if policy.strategy != "blue_green":
        return Step({candidate: 100}, watched=policy.strategy != "shadow")
    others = tuple(sorted((version for version in before if version != candidate), key=_age))
    return Step({**dict.fromkeys(others, 0), candidate: 100}, others, watched=True)


def on_trial(history: Sequence[Traffic]) -> str | None:
    """
    Return the version that a rollout is bringing in; None if none is under way.

    :param history: Every traffic record of the model, oldest first.
    """
    if not history or history[-1].settled:
        return None
    settled: Mapping[str, int] = next((traffic.split for traffic in reversed(history) if traffic.settled), {})
    return next((version for version in history[-1].split if version not in settled), None)


def check_steps(steps: Sequence[int]) -> None:
    """Raise ValueError unless *steps*, in percent, rise from above 0 to 100."""
    if not steps or steps[-1] != 100 or any(now >= then for now, then in pairwise((0, *steps))):
        raise ValueError(f"the steps must rise from above 0 to 100 percent, got {list(steps)}.")


def _next_split(split: Mapping[str, int], candidate: str, share: int) -> dict[str, int]:
    """
    Raise the candidate to *share*; the others keep their proportions in the rest (largest remainders round up).

    Always from the split before: scaled from the first one, a version could gain a percent between two steps.
    """
    others = {version: percent for version, percent in split.items() if version != candidate}
    rest, total = 100 - share, sum(others.values())
    scaled = {version: percent * rest // total for version, percent in others.items()}
    by_remainder = sorted(others, key=lambda version: (-(others[version] * rest % total), _age(version)))
    for version in by_remainder[: rest - sum(scaled.values())]:
        scaled[version] += 1
    return {**scaled, candidate: share}


def rollback_split(
    history: Sequence[Traffic], refused: Collection[str], *, leaving: Collection[str] = ()
) -> dict[str, int]:
    """
    Return the split to go back to: the newest settled one that has none of the versions being left or refused.

    A settled current split is left as a whole. From an unsettled one the versions that it brought in are left, so the
    newest settled split comes back as it was.

    :param history: Every traffic record of the model, oldest first.
    :param refused: Versions that were rolled back before and must not return.
    :param leaving: Versions to leave in any case.
    :raises RolloutRefusedError: There is no such split. Not retried.
    """
    if not history:
        raise RolloutRefusedError("Nothing to roll back: no version of this model ever had traffic.")
    current, earlier = history[-1], [record for record in history[:-1] if record.settled]
    left = _serving(current.split)
    if not current.settled and earlier:
        left -= _serving(earlier[-1].split)
    left |= set(leaving)
    for record in reversed(earlier):
        versions = _serving(record.split)
        if not versions & (left | set(refused)):
            return {version: record.split[version] for version in sorted(versions, key=_age)}
    seen = set().union(*(_serving(record.split) for record in earlier))
    raise RolloutRefusedError(
        f"Nothing to roll back to for {current.model!r}: generation {current.generation} ({describe(current.split)}) "
        f"keeps its traffic. {_why_not(seen, left, set(refused))} Train or deploy another version."
    )


def _why_not(seen: set[str], leaving: set[str], refused: set[str]) -> str:
    """Say what became of the versions that settled earlier."""
    bad, used = sorted(seen & refused, key=_age), sorted((seen & leaving) - refused, key=_age)
    parts = [f"{', '.join(bad)} rolled back before"] * bool(bad) + [f"{', '.join(used)} being left now"] * bool(used)
    return f"Settled earlier: version {'; version '.join(parts)}." if parts else "No earlier split had settled."


def champion(traffic: Traffic | None) -> str | None:
    """Return the version with most traffic of a settled record, the older of equals; None if nothing settled."""
    if traffic is None or not traffic.settled:
        return None
    return min(traffic.split, key=lambda version: (-traffic.split[version], _age(version)))


def describe(split: Mapping[str, int]) -> str:
    """Write a split for a person: ``version 3: 90 %, version 4: 10 %``."""
    return ", ".join(f"version {version}: {split[version]} %" for version in sorted(split, key=_age))


def _serving(split: Mapping[str, int]) -> set[str]:
    return {version for version, percent in split.items() if percent}


def _age(version: str) -> tuple[int, str]:
    """Sort key of versions: "9" before "10"."""
    return (int(version), "") if version.isdecimal() else (0, version)

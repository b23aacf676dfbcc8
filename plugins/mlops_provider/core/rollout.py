"""How traffic moves from one version to the next, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

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


def plan(current: Traffic | None, candidate: str, steps: Sequence[int]) -> tuple[dict[str, int], ...]:
    """
    Return the splits that bring *candidate* to all traffic, in order.

    The first loads the candidate beside what serves, at the share it has (0 when new, more when an interrupted rollout
    of it goes on); the last is the candidate alone. Without a current split the candidate gets everything at once.
    No other version ever gains traffic.

    :param steps: Percent for the candidate after each step, rising, the last 100.
    :raises ConcurrentWriteError: Another version's rollout is not settled. Retried.
    :raises ValueError: *steps* do not rise to 100.
    """
    check_steps(steps)
    if current is None:
        return ({candidate: 100},)
    if not current.settled and candidate not in current.split:
        raise ConcurrentWriteError(
            f"Version {candidate} of {current.model!r} has to wait: generation {current.generation} "
            f"({describe(current.split)}) belongs to a rollout that has not settled. Let it finish or roll it back, "
            f"then deploy version {candidate} again."
        )
    reached = current.split.get(candidate, 0)
    if reached == 100:
        return ({candidate: 100},)
    entries = [{version: share for version, share in current.split.items() if share} | {candidate: reached}]
    for step in steps:
        if step > reached:
            entries.append(_step(entries[-1], candidate, step))
    return tuple(entries)


def check_steps(steps: Sequence[int]) -> None:
    """Raise ValueError unless *steps*, in percent, rise from above 0 to 100."""
    if not steps or steps[-1] != 100 or any(now >= then for now, then in pairwise((0, *steps))):
        raise ValueError(f"the steps must rise from above 0 to 100 percent, got {list(steps)}.")


def _step(split: Mapping[str, int], candidate: str, share: int) -> dict[str, int]:
    """
    Raise the candidate to *share*; the others keep their proportions in the rest (largest remainders round up).

    Always from the split before: scaled from the first one, a version could gain a percent between two steps.
    """
    if share == 100:
        return {candidate: 100}
    others = {version: percent for version, percent in split.items() if version != candidate}
    rest, total = 100 - share, sum(others.values())
    scaled = {version: percent * rest // total for version, percent in others.items()}
    by_remainder = sorted(others, key=lambda version: (-(others[version] * rest % total), _age(version)))
    for version in by_remainder[: rest - sum(scaled.values())]:
        scaled[version] += 1
    return {**scaled, candidate: share}


def rollback_split(history: Sequence[Traffic], refused: Collection[str]) -> dict[str, int]:
    """
    Return the split to go back to: the newest settled one that has none of the versions being left or refused.

    A settled current split is left as a whole. From an unsettled one the versions that it brought in are left, so the
    newest settled split comes back as it was.

    :param history: Every traffic record of the model, oldest first.
    :param refused: Versions that were rolled back before and must not return.
    :raises RolloutRefusedError: There is no such split. Not retried.
    """
    if not history:
        raise RolloutRefusedError("Nothing to roll back: no version of this model ever had traffic.")
    current, earlier = history[-1], [record for record in history[:-1] if record.settled]
    leaving = _serving(current.split)
    if not current.settled and earlier:
        leaving -= _serving(earlier[-1].split)
    for record in reversed(earlier):
        versions = _serving(record.split)
        if not versions & (leaving | set(refused)):
            return {version: record.split[version] for version in sorted(versions, key=_age)}
    seen = set().union(*(_serving(record.split) for record in earlier))
    raise RolloutRefusedError(
        f"Nothing to roll back to for {current.model!r}: generation {current.generation} ({describe(current.split)}) "
        f"keeps its traffic. {_why_not(seen, leaving, set(refused))} Train or deploy another version."
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

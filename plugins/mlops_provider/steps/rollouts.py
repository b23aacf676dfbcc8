"""What a person does to a rollout: look at it, promote it, abort it, or override its guards. Each is recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mlops_provider.core import rollout
from mlops_provider.core.guards import Reading
from mlops_provider.core.names import Kind
from mlops_provider.core.origin import BY_HAND
from mlops_provider.core.rollout import Step, Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    MLOpsError,
    NothingToDo,
    RolloutRefusedError,
    ServingCheckError,
)
from mlops_provider.steps import incidents
from mlops_provider.steps.deploy import PATIENCE
from mlops_provider.steps.release import Release
from mlops_provider.steps.traffic import ROLLBACK, Lever, abort_command, drilling, seconds_since
from mlops_provider.steps.watch import readings

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)

OVERRIDE = "override"
"""Strategy of a record that gives a version all traffic without asking its guards."""


@dataclass(frozen=True, slots=True)
class Status:
    """
    Where a model's traffic stands.

    :param traffic: The newest record; None before the first.
    :param seconds: Age of that record.
    :param version: Version on trial; None if no rollout is under way.
    :param steps: What is left of the rollout, the step it is in first.
    :param readings: What its guards say now.
    :param unread: Why nobody knows what they say; empty if it is known.
    :param replicas: The live replicas.
    :param incident: The newest incident.
    :param drill: The newest rollback drill.
    """

    traffic: Traffic | None
    seconds: float
    version: str | None
    steps: tuple[Step, ...]
    readings: tuple[Reading, ...]
    unread: str
    replicas: Sequence[Replica]
    incident: Record | None
    drill: Record | None


def status(spec: ModelSpec, stores: Stores, *, target: Target) -> Status:
    """Look at a model's traffic, and at the rollout that is under way; nothing is moved, and nothing delivered."""
    ledger = stores.ledger
    record = ledger.latest(Kind.TRAFFIC, spec.name)
    traffic = Traffic.from_json(record.payload) if record else None
    version = on_trial(ledger, spec.name)
    steps: tuple[Step, ...] = ()
    found: tuple[Reading, ...] = ()
    unread = ""
    if traffic and version:
        steps = rollout.plan(traffic, version, spec.rollout_policy)
        if steps[0].watched:
            try:
                found = readings(spec, stores, target, traffic, version)
            except MLOpsError as error:  # all else is told, the more so now
                unread = str(error)
    return Status(
        traffic=traffic,
        seconds=seconds_since(record) if record else 0.0,
        version=version,
        steps=steps,
        readings=found,
        unread=unread,
        replicas=target.look(),
        incident=ledger.latest(Kind.INCIDENT, spec.name),
        drill=ledger.latest(Kind.DRILL, spec.name),
    )


def on_trial(ledger: Ledger, model: str) -> str | None:
    """The version that a rollout is bringing in; None if none is under way, as during a drill."""
    return None if drilling(ledger, model) else rollout.on_trial(ledger.traffic_history(model))


def planned(spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin) -> tuple[Step, ...]:
    """
    What a deployment of *version* would do from here; nothing is moved or recorded.

    :param target: Where it would be deployed; it is not asked.
    :param origin: Who would deploy it, whose own approval does not count.
    :return: The steps; none if it has all traffic, and only its promotion is left to be recorded.
    :raises RolloutRefusedError: It would be refused: it never passed the gate, lacks a person's approval, or was rolled
        back. Not retried.
    :raises ConcurrentWriteError: Another version's rollout is not settled, or a drill is under way. Retried.
    :raises NothingToDo: It has all traffic already.
    """
    release = Release(spec, stores, version, target, origin, target.patience)
    standing = release.found()
    settled = release.settled_at(standing)
    if settled is None:
        return release.plan(standing)
    if release.is_over(settled):
        raise NothingToDo(f"Version {version} of {spec.name!r} already has all traffic.")
    return ()


def promote(spec: ModelSpec, stores: Stores, *, target: Target, origin: Origin, patience: float = PATIENCE) -> Traffic:
    """
    Move the rollout under way on by one step, without the rest of the soak; every guard must have passed.

    :param patience: Longest wait for the replicas, in seconds.
    :return: The new record.
    :raises RolloutRefusedError: None is under way, or a guard lacks its minimum sample. Not retried.
    :raises GuardBreachedError: A guard was breached, and the version was taken back. Not retried.
    """
    release = Release(spec, stores, _required(stores.ledger, spec.name), target, origin, patience)
    standing = release.standing()
    at_once = replace(release.policy.soak, seconds=0.0, wait_at_most=0.0, without_data="hold")
    try:
        if waiting := release.advance(standing, release.plan(standing), soak=at_once):
            lacking = [reading.sentence for reading in waiting.readings if reading.verdict == "waiting"]
            raise RolloutRefusedError(
                f"Version {release.version} of {spec.name!r} was not promoted: {' '.join(lacking)} Wait, or skip the "
                "guards: --override --reason '…'."
            )
    except ServingCheckError as failure:
        raise release.failed(failure) from failure
    moved = stores.ledger.traffic(spec.name)
    assert moved is not None
    return _finished(release, moved) if moved.settled else moved


def override(
    spec: ModelSpec,
    stores: Stores,
    version: str | None = None,
    *,
    reason: str,
    target: Target,
    origin: Origin,
    patience: float = PATIENCE,
) -> Traffic:
    """
    Give a version all traffic at once, without steps, soak and guards. Its gate record is still asked for.

    It is loaded on every replica and compared with the registry's model first, and who did it, and why, is recorded
    before traffic moves.

    :param version: Registered version; by default the one whose rollout is under way.
    :param patience: Longest wait for the replicas, in seconds.
    :return: The settled record.
    :raises RolloutRefusedError: No rollout is under way, it never passed the gate, or was rolled back. Not retried.
    :raises ServingCheckError: It can't be loaded, or answers differently. Not retried.
    :raises StoreUnavailableError: It was not seen to be loaded in time; unless a rollout of it was under way, the split
        before is back. Retried.
    :raises NothingToDo: It has all traffic already.
    """
    chosen = version or _required(stores.ledger, spec.name)
    release = Release(spec, stores, chosen, target, origin, patience)
    standing = release.standing()
    if settled := release.settled_at(standing):
        release.skip_if_over(settled)
        return _finished(release, settled)
    first, *_ = release.plan(standing)
    under_way = release.at(standing, first)
    traffic = under_way or release.enter(standing, first)
    try:
        release.verified(traffic)
    except ServingCheckError as failure:
        raise release.failed(failure) from failure
    except ConcurrentWriteError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if under_way:
            raise
        # It would stay loaded without traffic, in the way of every other version.
        back = release.pause(error)
        if isinstance(error, MLOpsError):
            raise type(error)(f"{error} {back}") from error
        raise
    about = {
        "version": chosen,
        "generation": traffic.generation,
        "from": dict(traffic.split),
        "reason": reason,
        "skipped": list(release.policy.guards.declared),
        "origin": origin.key,
    }
    stores.ledger.append(Kind.OVERRIDE, spec.name, about, key=f"{spec.name}:{traffic.generation}", actor=origin.actor)
    return _finished(release, release.settle(release.standing(), (f"override: {reason}",), strategy=OVERRIDE))


def _finished(release: Release, traffic: Traffic) -> Traffic:
    """Finish, or take back what callers would be answered wrongly by."""
    try:
        return release.finish(traffic)
    except ServingCheckError as failure:
        raise release.failed(failure) from failure


def abort(
    spec: ModelSpec, stores: Stores, *, reason: str, target: Target, origin: Origin, patience: float = PATIENCE
) -> Traffic:
    """
    End the rollout or drill under way: the last settled split comes back, and nothing is held against the version.

    The run that deploys it fails at its next look; another run may deploy the version again. What came back before, by
    whatever, and was not seen to be served is waited for instead. Without a live replica the record is all there is to
    do: servers follow it when they start.

    :param patience: Longest wait for the replicas to serve the old split, in seconds.
    :return: The settled record.
    :raises RolloutRefusedError: None is under way, or nothing ever settled. Not retried.
    :raises StoreUnavailableError: The old split is recorded, but was not seen to be served. Retried.
    """
    lever = Lever(stores.ledger, target, spec.rollout_policy.strategy, origin)
    if back := lever.unseen():
        incidents.end_paused(lever, back, reason)
    else:
        back = lever.end_drill(f"aborted: {reason}", of_any_run=True)
    if back is None:
        version = _required(stores.ledger, spec.name)
        _record_abort(lever, version, reason)
        back = lever.take_back(f"aborted: {reason}", version=version, refuse=False)
    lever.see(back, again=abort_command(spec.name), patience=patience)
    return back


def end(
    spec: ModelSpec,
    stores: Stores,
    version: str,
    *,
    reason: str,
    target: Target,
    origin: Origin,
    patience: float = PATIENCE,
) -> str:
    """
    End the rollout that *origin*'s run moved last and moves no more: as :func:`abort`, and an incident is recorded.

    A drill that the run left is ended as well, without an incident. A retry of a try that was killed in between records
    the incident. What a task of the run brought back before, but did not see served, is waited for.

    :param version: Registered version; empty behind a drill.
    :param reason: Why nobody moves it, as a sentence.
    :param patience: Longest wait for the replicas to serve the old split, in seconds.
    :return: What happened and what serves now, as a sentence.
    :raises StoreUnavailableError: What the run brought back was not seen to be served. Retried.
    :raises NothingToDo: The run has no rollout of *version*, and no drill, under way, another one goes on with it, or
        there is nothing to go back to: no version has settled yet.
    """
    ledger = stores.ledger
    lever = Lever(ledger, target, spec.rollout_policy.strategy, origin)
    # What came back is only looked at for as long as a task holds its worker; a retry goes on with that.
    holds = min(patience, target.holds)
    if back := lever.end_drill("drill: its task ended before it"):
        lever.see(back, again=abort_command(spec.name), patience=holds)
        return f"The task ended before its drill; generation {back.generation} serves {rollout.describe(back.split)}."
    owner = _owner(ledger, spec.name, version) if on_trial(ledger, spec.name) == version else None
    if owner is None or not origin.same_run(owner):
        if completed := incidents.complete_ended(stores, lever, version, patience=patience):
            return completed
        wait_until_back(spec, stores, target=target, origin=origin)
        raise NothingToDo(_not_ours(lever, version, owner))
    if not lever.opened():
        raise NothingToDo(
            f"No version of {spec.name!r} has settled yet, so there is nothing to go back to: version {version} stays "
            "loaded, and answers only who asks for it by number. Deploy it again to go on, or another version."
        )
    _record_abort(lever, version, reason)
    failure = ServingCheckError(reason)
    return str(incidents.fail(stores, lever, version, failure, refuse=False, patience=patience))


def wait_until_back(spec: ModelSpec, stores: Stores, *, target: Target, origin: Origin) -> None:
    """
    Wait until what *origin*'s run brought back is served, unless that was seen; a target may have refused the move.

    It waits as long as a task holds its worker; a retry goes on.

    :raises StoreUnavailableError: It was not seen to be served. Retried.
    """
    lever = Lever(stores.ledger, target, spec.rollout_policy.strategy, origin)
    if (back := lever.unseen()) and origin.same_run(lever.origin_of(back)):
        lever.see(back, again=abort_command(spec.name), patience=target.holds)


def _owner(ledger: Ledger, model: str, version: str) -> str | None:
    """
    Key of a task of the run that goes on with the rollout of *version*, or whose teardown ends it.

    That is the DAG run that moved it last, whatever commands did meanwhile; without one the command that did, unless
    that only promoted it.
    """
    under_way = takewhile(lambda record: not record.payload["settled"], reversed(ledger.history(Kind.TRAFFIC, model)))
    movers = [str(record.payload["origin"]) for record in under_way if version in record.payload["split"]]
    of_runs = [key for key in movers if not key.startswith(BY_HAND)]
    commands = [key for key in movers if not key.startswith(f"{BY_HAND}rollout/")]
    return next(iter(of_runs or commands), None) or None


def _not_ours(lever: Lever, version: str, owner: str | None) -> str:
    """Say why a run has nothing to end, and what serves."""
    ledger, model = lever.ledger, lever.model
    none = f"This run has no {f'rollout of version {version}' if version else 'drill'} of {model!r} under way"
    current = ledger.traffic(model)
    if current is None:
        return f"{none}: no version ever had traffic."
    if owner is None:
        serving = f"{none}; generation {current.generation} is {rollout.describe(current.split)}."
        promoted = ledger.find(Kind.PROMOTION, f"{model}:{current.generation}")
        if not current.settled or current.split != {version: 100} or promoted or lever.strategy_of(current) == ROLLBACK:
            return serving
        return f"{serving} It has settled, but its promotion is not recorded: deploy version {version} again for that."
    dag, run, *_ = map(unquote, owner.split("/"))
    return (
        f"{none}: run {run!r} of {dag!r} moves it, and goes on or ends it. If that is over: mlops rollout abort "
        f"{model} --reason '…'."
    )


def _record_abort(lever: Lever, version: str, reason: str) -> None:
    current = lever.ledger.traffic(lever.model)
    assert current is not None
    lever.note_abort(version, reason, current)


def _required(ledger: Ledger, model: str) -> str:
    version = on_trial(ledger, model)
    if version is None:
        current = ledger.traffic(model)
        state = "has settled" if current and current.settled else "answers for a rollback drill"
        serving = f"{rollout.describe(current.split)} {state}" if current else "no version ever had traffic"
        raise RolloutRefusedError(f"No rollout of {model!r} is under way: {serving}.")
    return version

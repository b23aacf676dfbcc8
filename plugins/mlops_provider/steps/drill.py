"""A rollback drill: callers get the version before for a moment, so that its time is known before it is needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlops_provider.core import rollout
from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    MLOpsError,
    NothingToDo,
    PermanentError,
    RolloutRefusedError,
    ServingCheckError,
    StoreUnavailableError,
)
from mlops_provider.steps import verification
from mlops_provider.steps.approval import rolled_back
from mlops_provider.steps.following import PAUSE_SECONDS, require_replicas, wait_until_served
from mlops_provider.steps.traffic import DRILL, ROLLBACK, Lever, Standing, abort_command, drilling
from mlops_provider.steps.verification import Sample

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)


def drill(spec: ModelSpec, stores: Stores, *, target: Target, origin: Origin, patience: float = 60.0) -> Record:
    """
    Go where a rollback would go now, see every replica answer there as the registry's model does, and return.

    The old split never settles, so the champion, and what drift is compared with, stay; nothing is held against a
    version. Whatever ends it, Ctrl-C included, the traffic is brought back first; what was killed in between is ended
    by a retry, which waits until that is served, or by :func:`mlops_provider.steps.rollouts.end`.

    :param patience: Longest wait for the replicas each way, in seconds.
    :return: The ledger's record, with the seconds each way took.
    :raises NothingToDo: There is no version to go back to, a rollout or another drill is under way, or an earlier try
        was interrupted.
    :raises ServingCheckError: A rollback would not do; that is recorded, and traffic is back. Not retried.
    :raises ConcurrentWriteError: Somebody else moved the traffic meanwhile, and keeps it. Retried.
    :raises StoreUnavailableError: No live replica, or a store is away. Retried.
    """
    lever = Lever(stores.ledger, target, DRILL, origin)
    record = stores.ledger.find(Kind.DRILL, origin.key) or _drilled(spec, stores, lever, patience)
    if not record.payload["passed"]:
        to, why = rollout.describe(record.payload["to"]), record.payload["reason"]
        raise ServingCheckError(f"A rollback of {spec.name!r} to {to} fails: {why}")
    return record


def _drilled(spec: ModelSpec, stores: Stores, lever: Lever, patience: float) -> Record:
    ledger, model = stores.ledger, spec.name
    settled, split = _ways(lever, patience)
    about: dict[str, Any] = {
        "generation": None,
        "from": dict(settled.split),
        "to": dict(split),
        "seconds": None,
        "restored_seconds": None,
        "replicas": [],
        "origin": lever.origin.key,
    }
    try:
        sample = verification.sample(stores, model, spec.feature_columns, max(split, key=lambda each: split[each]))
    except PermanentError as error:
        # As when its files are gone or changed: known without giving it to callers.
        about["reason"] = str(error)
    else:
        require_replicas(lever.target)
        about |= _there_and_back(lever, settled, split, sample, patience)
    about["passed"] = not about["reason"]
    return ledger.append(Kind.DRILL, model, about, key=lever.origin.key, actor=lever.origin.actor)


def _ways(lever: Lever, patience: float) -> tuple[Traffic, Mapping[str, int]]:
    """Give what serves now and what a rollback would bring, once what interrupted drills left is back."""
    ledger, model = lever.ledger, lever.model
    lever.end_drill()
    if (moved := lever.moved_before()) is not None:
        lever.see(moved, again=abort_command(model), patience=patience)
        raise NothingToDo(f"The drill was interrupted; generation {moved.generation} of {model!r} serves as before.")
    lever.end_abandoned_drill()
    if drilling(ledger, model):
        raise NothingToDo(f"No drill now: another drill of {model!r} is under way.")
    history = ledger.traffic_history(model)
    if not history or not history[-1].settled:
        raise NothingToDo(f"No drill now: no version of {model!r} has settled, or a rollout is under way.")
    newest = history[-1]
    promoted = ledger.find(Kind.PROMOTION, f"{model}:{newest.generation}")
    if promoted is None and lever.strategy_of(newest) != ROLLBACK:
        raise NothingToDo(
            f"No drill now: the deployment of {rollout.describe(newest.split)} of {model!r} has settled, but has not "
            "been recorded as a promotion yet. Let it finish, or run it again."
        )
    try:
        return newest, rollout.rollback_split(history, rolled_back(ledger, model))
    except RolloutRefusedError as nowhere:
        raise NothingToDo(f"No drill now. {nowhere}") from nowhere


def _ended(lever: Lever, patience: float) -> Traffic | None:
    """
    Give the traffic back, and insist on it while a store is away: nobody else may be there to do it.

    :param patience: Longest time, in seconds, over which it is tried again.
    :return: The settled record; None if somebody else moved the traffic.
    :raises StoreUnavailableError: Callers may still have the version before. Retried.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return lever.end_drill() or _given_back(lever)
        except StoreUnavailableError as away:
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"The rollback drill of {lever.model!r} could not be ended, so callers may keep the version "
                    f"before: {away} Once it is there again: {abort_command(lever.model)}."
                ) from away
            logger.warning("The drill can't be ended yet: %s", away)
        time.sleep(PAUSE_SECONDS)


def _given_back(lever: Lever) -> Traffic | None:
    """What this drill brought back, if a write that seemed to fail did not."""
    current = lever.ledger.traffic(lever.model)
    ours = current is not None and current.settled and lever.origin_of(current) == lever.origin.key
    return current if ours else None


def _there_and_back(
    lever: Lever, settled: Traffic, split: Mapping[str, int], sample: Sample, patience: float
) -> dict[str, Any]:
    """Move traffic to *split* and back to what has *settled*; give what the ledger keeps of it."""
    reasons, replicas, seconds, restored = [], list[str](), None, None
    trouble: BaseException | None = None
    started = time.monotonic()
    try:
        standing = Standing(settled.generation, settled)
        reason = f"drill: {rollout.describe(split)} answers for a moment"
        there = lever.move(standing, split, settled=False, reason=reason)
        seen = wait_until_served(lever.target, there, candidate=next(iter(sample.expected)), patience=patience)
        verification.verify_choice(lever.target, there, seen, sample, probes=1, patience=patience)
        seconds, replicas = round(time.monotonic() - started, 3), [replica.replica for replica in seen]
    except BaseException as error:  # noqa: BLE001 - whatever it was: callers must not keep the version before
        trouble = error
    started = time.monotonic()
    back = _ended(lever, patience)
    if trouble is not None:
        if back is not None and isinstance(trouble, KeyboardInterrupt):
            again = abort_command(lever.model)
            serving = f"generation {back.generation} ({rollout.describe(back.split)}) is served"
            logger.warning("Interrupted: waiting until %s. Ctrl-C again leaves; to go on waiting: %s", serving, again)
            lever.see(back, again=again, patience=patience)
        if back is None or not isinstance(trouble, Exception):
            raise trouble
        reasons.append(str(trouble) if isinstance(trouble, MLOpsError) else type(trouble).__name__)
    if back is None:
        raise ConcurrentWriteError(f"Somebody moved the traffic of {lever.model!r} during the drill, and keeps it.")
    try:
        wait_until_served(lever.target, back, patience=patience)
        restored = round(time.monotonic() - started, 3)
    except MLOpsError as error:
        reasons.append(str(error))
    return {
        "generation": back.generation - 1,
        "reason": " ".join(reasons),
        "seconds": seconds,
        "restored_seconds": restored,
        "replicas": replicas,
    }

"""A rollback drill: callers get the version before for a moment, so that its time is known before it is needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlops_provider.core import rollout
from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import MLOpsError, NothingToDo, RolloutRefusedError, ServingCheckError
from mlops_provider.steps import verification
from mlops_provider.steps.approval import rolled_back
from mlops_provider.steps.following import require_replicas, wait_until_served
from mlops_provider.steps.traffic import DRILL, ROLLBACK, Lever, Standing
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
    version. A retry of a try that was killed in between brings the traffic back.

    :param patience: Longest wait for the replicas each way, in seconds.
    :return: The ledger's record, with the seconds each way took.
    :raises NothingToDo: There is no version to go back to, a rollout is under way, or an earlier try was killed.
    :raises ServingCheckError: A rollback would not do; traffic is back. Not retried.
    :raises ConcurrentWriteError: Somebody else moved the traffic meanwhile, and keeps it. Retried.
    :raises StoreUnavailableError: No live replica, or a store is away. Retried.
    """
    ledger, model = stores.ledger, spec.name
    if done := ledger.find(Kind.DRILL, origin.key):
        return done
    lever = Lever(ledger, target, DRILL, origin)
    history = ledger.traffic_history(model)
    if (moved := lever.moved_before()) is not None:
        if not moved.settled:
            moved = _return(lever, moved, next(each for each in reversed(history) if each.settled))
        raise NothingToDo(f"The drill was interrupted; generation {moved.generation} of {model!r} serves as before.")
    if not history or not history[-1].settled:
        raise NothingToDo(f"No drill now: no version of {model!r} has settled, or a rollout is under way.")
    try:
        split = rollout.rollback_split(history, rolled_back(ledger, model))
    except RolloutRefusedError as nowhere:
        raise NothingToDo(f"No drill now. {nowhere}") from nowhere
    sample = verification.sample(stores, model, spec.feature_columns, max(split, key=lambda each: split[each]))
    require_replicas(target)
    found = _there_and_back(lever, history[-1], split, sample, patience)
    record = ledger.append(Kind.DRILL, model, found, key=origin.key, actor=origin.actor)
    if not record.payload["passed"]:
        raise ServingCheckError(f"A rollback of {model!r} to {rollout.describe(split)} fails: {found['reason']}")
    return record


def _there_and_back(
    lever: Lever, settled: Traffic, split: Mapping[str, int], sample: Sample, patience: float
) -> dict[str, Any]:
    """Move traffic to *split* and back to what has *settled*; give what the ledger keeps of it."""
    reasons, replicas, seconds, restored = [], list[str](), None, None
    started = time.monotonic()
    standing = Standing(settled.generation, settled)
    there = lever.move(standing, split, settled=False, reason=f"drill: {rollout.describe(split)} answers for a moment")
    try:
        seen = wait_until_served(lever.target, there, candidate=next(iter(sample.expected)), patience=patience)
        verification.verify_choice(lever.target, there, seen, sample, probes=1, patience=patience)
        seconds, replicas = round(time.monotonic() - started, 3), [replica.replica for replica in seen]
    except Exception as error:  # noqa: BLE001 - whatever it was: callers must not keep the version before
        reasons.append(str(error) if isinstance(error, MLOpsError) else type(error).__name__)
    started = time.monotonic()
    back = _return(lever, there, settled)
    try:
        wait_until_served(lever.target, back, patience=patience)
        restored = round(time.monotonic() - started, 3)
    except MLOpsError as error:
        reasons.append(str(error))
    return {
        "generation": there.generation,
        "from": dict(settled.split),
        "to": dict(split),
        "passed": not reasons,
        "reason": " ".join(reasons),
        "seconds": seconds,
        "restored_seconds": restored,
        "replicas": replicas,
        "origin": lever.origin.key,
    }


def _return(lever: Lever, there: Traffic, settled: Traffic) -> Traffic:
    standing = Standing(there.generation, there)
    return lever.move(standing, settled.split, settled=True, reason="drill: over", strategy=ROLLBACK)

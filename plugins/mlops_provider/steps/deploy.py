"""
Give a version its traffic, step by step, or take it back.

Every generation of traffic is one ledger record, written by whoever read the one before; replicas follow it by
themselves. A version is loaded beside what serves, with 0 percent, and checked there first. The first version of a
model has nothing beside which it could be loaded: its record says 100 percent unsettled, and servers answer only
requests that pin it until a first record is settled.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    InconclusiveRolloutError,
    NothingToDo,
    RolloutRefusedError,
    ServingCheckError,
)
from mlops_provider.steps.following import StillMovingError
from mlops_provider.steps.release import Release

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

PATIENCE = 60.0
"""Longest wait, in seconds, for all replicas to load a version or to answer."""
MOST_CONFLICTS = 10
"""Moves by somebody else after which a rollout lets Airflow retry it later."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A rollout that has to be looked at again.

    :param seconds: When, from now.
    :param left: Seconds that the wait may take in all, looks in between included.
    :param reasons: What it waits for, as sentences.
    """

    seconds: float
    left: float
    reasons: tuple[str, ...]


def check_serving(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> str:
    """
    Check *version*, and wait in this process while the target is still moving; see :func:`check`.

    :param patience: Longest wait for the replicas, in seconds.
    :return: Ledger ID of the check.
    """
    while isinstance(found := check(spec, stores, version, target=target, origin=origin, patience=patience), Waiting):
        time.sleep(found.seconds)
    return found


def check(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> str | Waiting:
    """
    Load *version* beside the others on every live replica and compare its answers with the registry's model.

    It stays loaded without traffic, for :func:`deploy`. If it fails, the split before is restored.

    :param patience: Longest wait for the replicas, in seconds.
    :return: Ledger ID of the check; or when to look again, at a target that takes its time.
    :raises ServingCheckError: A replica can't load it or predicts differently. Not retried.
    :raises SourceError: There are no feature rows to compare answers on. Not retried.
    :raises RolloutRefusedError: It never passed the gate, or was rolled back before. Not retried.
    :raises ConcurrentWriteError: Another rollout is under way. Retried.
    :raises StoreUnavailableError: No live replica, or a store is away. Retried.
    :raises NothingToDo: The version has all traffic already.
    """
    key = f"{origin.key}/{version}"
    done = stores.ledger.find(Kind.SERVING_CHECK, key)
    if done is not None:
        return done.record_id
    release = Release(spec, stores, version, target, origin, patience, comes_back=True)
    standing = release.standing()
    traffic = release.settled_at(standing)
    if traffic:
        # A rollout that ended before its promotion was noted is still to be completed by `deploy`.
        release.skip_if_over(traffic)
    else:
        first, *_ = release.plan(standing)
        traffic = release.at(standing, first) or release.enter(standing, first)
    try:
        replicas = release.verify(traffic)
    except ServingCheckError as failure:
        raise release.failed(failure) from failure
    except StillMovingError as moving:
        return _look_again(release, moving)
    return release.note_check(traffic.generation, key=key, replicas=replicas).record_id


def deploy(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> Traffic:
    """
    Move traffic to *version* as declared, and wait in this process until it has settled; see :func:`advance`.

    :param patience: Longest wait for the replicas at each step, in seconds.
    :return: The settled record.
    """
    while isinstance(
        reached := advance(spec, stores, version, target=target, origin=origin, patience=patience), Waiting
    ):
        time.sleep(reached.seconds)
    return reached


def advance(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> Traffic | Waiting:
    """
    Take a rollout as far as it can go now: verify each step on every replica, ask its guards, move on, settle.

    Where it stands is read from the ledger each time, so whoever calls it again goes on, in whichever process. If the
    version fails, or callers meet worse than a guard allows, the last settled split comes back, an incident is
    recorded, and the version never returns if it had traffic; if it can't be loaded, it may. After any other error, as
    when servers or stores are away, the split comes back and the version may be deployed again.

    :param patience: Longest wait for the replicas at each step, in seconds.
    :return: The settled record; or when to look again.
    :raises ServingCheckError: It failed and was taken back. Not retried.
    :raises GuardBreachedError: A guard was breached, and it was taken back. Not retried.
    :raises InconclusiveRolloutError: No minimum sample came in time, and it was taken back. Not retried.
    :raises SourceError: There are no feature rows to compare answers on. Not retried.
    :raises RolloutRefusedError: It never passed the gate, was rolled back before, or aborted. Not retried.
    :raises ConcurrentWriteError: Another rollout is under way. Retried.
    :raises StoreUnavailableError: No live replica, or a store is away. Retried.
    :raises NothingToDo: The version has all traffic already.
    """
    release = Release(spec, stores, version, target, origin, patience, comes_back=True)
    conflicts = 0
    while True:
        standing = release.standing()
        settled = release.settled_at(standing)
        # Another rollout is refused here, outside of the `try`: waiting for it is Airflow's business.
        steps = () if settled else release.plan(standing)
        try:
            if settled:
                return release.finish(settled)
            if waiting := release.advance(standing, steps):
                return Waiting(waiting.wait_seconds, waiting.left_seconds, waiting.reasons)
        except StillMovingError as moving:
            return _look_again(release, moving)
        except ConcurrentWriteError:
            # An orphaned first try takes part in the same rollout; reading again tells what is left to do.
            conflicts += 1
            if conflicts > MOST_CONFLICTS:
                raise
        except (NothingToDo, RolloutRefusedError):
            raise
        except Exception as error:
            ended = _ended(release, error, settled=settled is not None)
            if ended is error:
                raise
            raise ended from error


def _look_again(release: Release, moving: StillMovingError) -> Waiting:
    return Waiting(min(release.policy.soak.look_seconds, moving.left), moving.left, (str(moving),))


def _ended(release: Release, error: Exception, *, settled: bool) -> Exception:
    """Take the version back, and give the error that says so."""
    if isinstance(error, ServingCheckError):
        return release.failed(error)
    if settled:
        return error
    # Whatever it was: callers would keep the share of a version that nobody verifies any more.
    back = release.pause(error)
    return InconclusiveRolloutError(f"{error} {back}") if isinstance(error, InconclusiveRolloutError) else error

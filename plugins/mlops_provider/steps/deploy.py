"""
Give a version its traffic, step by step, or take it back.

Every generation of traffic is one ledger record, written by whoever read the one before; replicas follow it by
themselves. A version is loaded beside what serves, with 0 percent, and checked there first. The first version of a
model has nothing beside which it could be loaded: its record says 100 percent unsettled, and servers answer only
requests that pin it until a first record is settled.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pandas as pd

from mlops_provider.core import rollout
from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    MLOpsError,
    NothingToDo,
    RolloutRefusedError,
    ServingCheckError,
)
from mlops_provider.steps import verification
from mlops_provider.steps.release import Release, project_rollback
from mlops_provider.steps.traffic import ROLLBACK, Lever
from mlops_provider.steps.verification import Sample

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Longest wait, in seconds, for all replicas to load a version or to answer."""
MOST_CONFLICTS = 10
"""Moves by somebody else after which a rollout lets Airflow retry it later."""


def check_serving(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> str:
    """
    Load *version* beside the others on every live replica and compare its answers with the registry's model.

    It stays loaded without traffic, for :func:`deploy`. If it fails, the split before is restored.

    :param patience: Longest wait for the replicas, in seconds.
    :return: Ledger ID of the check.
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
    release = Release(spec, stores, version, target, origin, patience)
    standing = release.standing()
    traffic = release.settled_at(standing)
    if traffic:
        # A rollout that ended before its promotion was noted is still to be completed by `deploy`.
        release.skip_if_over(traffic)
    else:
        first, *_ = rollout.plan(standing.base, version, spec.rollout_steps)
        traffic = release.at(standing, first) or release.move(standing, first)
    try:
        replicas = release.verify(traffic)
    except ServingCheckError as failure:
        raise release.failed(failure) from failure
    return release.note_check(traffic.generation, key=key, replicas=replicas)


def deploy(
    spec: ModelSpec, stores: Stores, version: str, *, target: Target, origin: Origin, patience: float = PATIENCE
) -> Traffic:
    """
    Move traffic to *version* in the declared steps, verify each one on every replica, and settle it.

    A retry goes on at the step that was reached. If the version fails, the last settled split comes back and the
    version never returns; after any other error, as when servers or stores are away, the split comes back and the
    version may be deployed again.

    :param patience: Longest wait for the replicas at each step, in seconds.
    :return: The settled record.
    :raises ServingCheckError: It failed and was taken back. Not retried.
    :raises SourceError: There are no feature rows to compare answers on. Not retried.
    :raises RolloutRefusedError: It never passed the gate, or was rolled back before. Not retried.
    :raises ConcurrentWriteError: Another rollout is under way. Retried.
    :raises StoreUnavailableError: No live replica, or a store is away. Retried.
    :raises NothingToDo: The version has all traffic already.
    """
    release = Release(spec, stores, version, target, origin, patience)
    conflicts = 0
    while True:
        standing = release.standing()
        settled = release.settled_at(standing)
        # Another rollout is refused here, outside of the `try`: waiting for it is Airflow's business.
        splits = () if settled else rollout.plan(standing.base, version, spec.rollout_steps)
        try:
            if settled:
                return release.finish(settled)
            release.step(standing, splits)
        except ConcurrentWriteError:
            # An orphaned first try takes part in the same rollout; reading again tells what is left to do.
            conflicts += 1
            if conflicts > MOST_CONFLICTS:
                raise
        except ServingCheckError as failure:
            raise release.failed(failure) from failure
        except (NothingToDo, RolloutRefusedError):
            raise
        except Exception as error:
            # Whatever it was: callers would keep the share of a version that nobody verifies any more.
            if not settled:
                release.pause(error)
            raise


def rollback(
    model: str, stores: Stores, *, reason: str, target: Target, origin: Origin, patience: float = PATIENCE
) -> Traffic:
    """
    Give traffic back to the newest settled split without a version that was ever taken back.

    What is left never returns, so release back twice goes further back or is refused. A retry only completes what
    its first try began. Without a live replica the record is all there is to do: servers follow it when they start.

    :param reason: Why, for the record.
    :param patience: Longest wait for the replicas, in seconds.
    :return: The new traffic record.
    :raises RolloutRefusedError: There is nothing to go back to. Not retried.
    :raises StoreUnavailableError: A replica does not follow, or the ledger is away. Retried.
    :raises NothingToDo: A retry finds that traffic has moved on since its first try.
    """
    started = time.monotonic()
    lever = Lever(stores.ledger, target, ROLLBACK, origin)
    traffic = lever.moved_before() or lever.take_back(reason)
    rows = _rows_if_at_hand(stores, model)
    if target.observe():
        replicas = verification.wait_until_served(target, traffic, patience=patience)
        if rows is not None:
            verification.verify_choice(target, traffic, replicas, Sample(rows, {}), probes=1, patience=patience)
        seconds = round(time.monotonic() - started, 3)
        logger.info("Every replica of %s serves generation %s after %s s", model, traffic.generation, seconds)
        seen = {
            "version": rollout.champion(traffic),
            "generation": traffic.generation,
            "passed": True,
            "reason": f"rollback: {reason}",
            "replicas": [replica.replica for replica in replicas],
            "seconds": seconds,
        }
        key = f"{origin.key}/{traffic.generation}"
        stores.ledger.append(Kind.SERVING_CHECK, model, seen, key=key, actor=origin.actor)
    else:
        logger.warning("No replica of %s is live; servers follow generation %s when started", model, traffic.generation)
    project_rollback(stores, traffic)
    return traffic


def _rows_if_at_hand(stores: Stores, model: str) -> pd.DataFrame | None:
    """Rows to ask with; a rollback must also work while the tables are away."""
    try:
        return verification.sample_rows(stores, model)
    except MLOpsError as error:
        logger.warning("The rollback is seen by heartbeats only: %s", error)
        return None

"""Give traffic back to the version before. It imports little before it has moved: callers are waiting."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops_provider.core import rollout
from mlops_provider.core.names import Kind
from mlops_provider.exceptions import MLOpsError
from mlops_provider.steps.following import wait_until_served
from mlops_provider.steps.incidents import project_rollback
from mlops_provider.steps.traffic import ROLLBACK, Lever

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)


def rollback(
    model: str, stores: Stores, *, reason: str, target: Target, origin: Origin, patience: float = 60.0
) -> Traffic:
    """
    Give traffic back to the newest settled split without a version that was ever taken back.

    What is left never returns, so rolling back twice goes further back or is refused. A retry only completes what
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
    if target.observe():
        replicas = wait_until_served(target, traffic, patience=patience)
        seconds = round(time.monotonic() - started, 3)
        logger.info("Every replica of %s serves generation %s after %s s", model, traffic.generation, seconds)
        _ask_once(stores, target, traffic, replicas, patience)
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


def _ask_once(stores: Stores, target: Target, traffic: Traffic, replicas: Sequence[Replica], patience: float) -> None:
    """Ask each replica, as callers do, with rows at hand; a rollback must also work while the tables are away."""
    from mlops_provider.steps import verification  # takes seconds to import: callers have the old version by now

    try:
        rows = verification.sample_rows(stores, target.model)
    except MLOpsError as error:
        logger.warning("The rollback is seen by heartbeats only: %s", error)
        return
    sample = verification.Sample(rows, {})
    verification.verify_choice(target, traffic, replicas, sample, probes=1, patience=patience)

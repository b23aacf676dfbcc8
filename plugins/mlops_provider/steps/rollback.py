"""Give traffic back to the version before. It imports little before it has moved: callers are waiting."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops_provider.core import rollout
from mlops_provider.exceptions import (
    MLOpsError,
    NothingToDo,
    RolloutRefusedError,
    ServingCheckError,
    StoreUnavailableError,
    TransientError,
)
from mlops_provider.steps.incidents import end_paused, project_rollback
from mlops_provider.steps.traffic import ROLLBACK, Lever, rollback_command

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.stores.suite import Stores
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)


def rollback(
    model: str,
    stores: Stores,
    *,
    reason: str,
    target: Target,
    origin: Origin,
    version: str | None = None,
    patience: float = 60.0,
) -> Traffic:
    """
    Give traffic back to the newest settled split without a version that was ever taken back.

    What callers met of what is left never returns, so rolling back twice goes further back or is refused; a version
    that had no share yet may come again, in another run. What came back before, and was not seen to be served, is
    waited for instead, unless a replica refuses it; a paused rollout that brought it back ends as by an abort. A retry
    only completes what its first try began. Without a live replica the record is all there is to do: servers follow it
    when they start.

    :param reason: Why, for the record.
    :param version: Version to leave, wherever it stands; by default whatever came last.
    :param patience: Longest wait for the replicas, in seconds.
    :return: The new traffic record; or the one that was waited for.
    :raises RolloutRefusedError: There is nothing to go back to; or what came back before was waited for in vain. Not
        retried.
    :raises ServingCheckError: The version before serves, but refuses a row, or answers for another one. Not retried.
    :raises StoreUnavailableError: A replica does not follow, or the ledger is away. Retried.
    :raises NothingToDo: *version* is not in the traffic; or a retry finds that it has moved on since its first try.
    """
    started = time.monotonic()
    lever = Lever(stores.ledger, target, ROLLBACK, origin)
    traffic = lever.moved_before()
    if traffic is None and (seen := lever.seen_before()):
        return seen
    waited = None if traffic else _unseen(lever, version)
    traffic = traffic or waited or lever.take_back(reason, version=version)
    if lever.strategy_of(traffic) != ROLLBACK:
        what = f"Version {version}" if version else "What an earlier try of this task decided to leave"
        raise NothingToDo(
            f"{what} of {model!r} is not in generation {traffic.generation} ({rollout.describe(traffic.split)}): there "
            "is nothing to take back."
        )
    end_paused(lever, traffic, reason)
    try:
        further = rollback_command(model, rollout.champion(traffic))
        again = f"{rollback_command(model)}; if it can't serve, to go further back: {further}"
        if replicas := lever.wait_for(traffic, again=again, patience=patience):
            seconds = time.monotonic() - started
            logger.info("Every replica of %s serves generation %s after %.3f s", model, traffic.generation, seconds)
            refused = _ask_once(stores, target, traffic, replicas, patience)
            said = str(refused) if refused else f"rollback: {reason}"
            lever.note_seen(traffic, replicas, reason=said, seconds=seconds, passed=refused is None)
            if refused:
                raise ServingCheckError(
                    f"The rollback of {model!r} stands: every replica serves generation {traffic.generation} "
                    f"({rollout.describe(traffic.split)}). But asked with sample rows: {refused} To go further back: "
                    f"{rollback_command(model)}."
                ) from refused
    except TransientError as trouble:
        if waited is None:
            raise
        # What it waited for may be seen by others meanwhile, and then a retry would go further back.
        raise RolloutRefusedError(f"Nothing was moved: it had come back before. {trouble}") from trouble
    finally:
        project_rollback(stores, traffic)
    return traffic


def _unseen(lever: Lever, version: str | None) -> Traffic | None:
    """What came back before, if nobody saw it served yet, nor that a replica refuses it; going further can wait."""
    traffic = lever.unseen() if version is None else None
    if traffic is None:
        return None
    try:
        told = " ".join(replica.error for replica in lever.target.observe())
    except MLOpsError as error:
        told = str(error)
    if any(f"Version {each} is refused:" in told for each, share in traffic.split.items() if share):
        return None
    logger.warning("Generation %s was not seen to be served yet: waiting for it", traffic.generation)
    return traffic


def _ask_once(
    stores: Stores, target: Target, traffic: Traffic, replicas: Sequence[Replica], patience: float
) -> ServingCheckError | None:
    """Ask each replica, as callers do, with rows at hand; a rollback must also work while the tables are away."""
    from mlops_provider.steps import verification  # takes seconds to import: callers have the old version by now

    try:
        rows = verification.sample_rows(stores, target.model)
    except MLOpsError as error:
        logger.warning("The rollback is seen by heartbeats only: %s", error)
        return None
    sample = verification.Sample(rows, {})
    try:
        verification.verify_choice(target, traffic, replicas, sample, probes=1, patience=patience)
    except ServingCheckError as refused:
        return refused
    except StoreUnavailableError as away:
        raise StoreUnavailableError(
            f"The rollback of {target.model!r} stands: every replica serves generation {traffic.generation} "
            f"({rollout.describe(traffic.split)}). But it does not answer yet: {away} To ask again: "
            f"{rollback_command(target.model)}."
        ) from away
    return None

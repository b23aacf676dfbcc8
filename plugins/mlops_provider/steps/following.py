"""Wait until every live replica follows a traffic record."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops_provider.core.rollout import Traffic, describe
from mlops_provider.exceptions import ConcurrentWriteError, NotLoadedError, StoreUnavailableError

if TYPE_CHECKING:
    from mlops_provider.stores.replicas import Replica
    from mlops_provider.targets import Target

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2


class NotServedError(StoreUnavailableError):
    """A replica does not serve a traffic record in time."""


class StillMovingError(Exception):
    """
    A target that takes its time is on its way: whoever can come back later should, instead of waiting.

    :param left: Seconds until it counts as stuck.
    """

    def __init__(self, state: str, left: float) -> None:
        super().__init__(state)
        self.left = left


def require_replicas(target: Target) -> Sequence[Replica]:
    """
    Give the live replicas.

    :raises StoreUnavailableError: There is none. Retried.
    """
    replicas = target.observe()
    if not replicas:
        raise StoreUnavailableError(
            f"No live replica of {target.model!r} reports to the ledger. Start the model server: mlops serve."
        )
    return replicas


def wait_until_served(
    target: Target, traffic: Traffic, *, candidate: str | None = None, patience: float, waited: float = 0.0
) -> Sequence[Replica]:
    """
    Wait until every live replica serves *traffic* with all its versions loaded.

    :param candidate: Version that is on trial.
    :param patience: Longest wait, in seconds.
    :param waited: Seconds that others waited for it before, for the message.
    :raises ConcurrentWriteError: A replica is ahead: somebody moved the traffic meanwhile. Retried.
    :raises NotLoadedError: A replica refuses *candidate*. Not retried.
    :raises NotServedError: One was not there in time. Retried.
    :raises StoreUnavailableError: No live replica. Retried.
    """
    deadline, told = time.monotonic() + patience, ""
    while True:
        replicas = target.observe()
        behind = [replica for replica in replicas if not _serves(replica, traffic)]
        if replicas and not behind:
            return replicas
        state = "; ".join(_progress(replica) for replica in behind) or "no live replica"
        if state != told:
            logger.info("Waiting for generation %s of %s: %s", traffic.generation, traffic.model, state)
            told = state
        for replica in behind:
            _look_for_a_reason(replica, traffic, candidate)
        if time.monotonic() > deadline:
            if not replicas:
                require_replicas(target)
            raise NotServedError(
                f"Not every replica of {traffic.model!r} serves generation {traffic.generation} "
                f"({describe(traffic.split)}) after {waited + patience:.0f} s: {state}."
            )
        time.sleep(PAUSE_SECONDS)


def _serves(replica: Replica, traffic: Traffic) -> bool:
    return replica.generation == traffic.generation and set(traffic.split) <= set(replica.versions)


def _progress(replica: Replica) -> str:
    loaded = ", ".join(replica.versions) or "no version"
    trouble = f" ({replica.error})" if replica.error else ""
    return f"{replica.replica} has generation {replica.generation} with {loaded}{trouble}"


def _look_for_a_reason(replica: Replica, traffic: Traffic, candidate: str | None) -> None:
    if replica.generation > traffic.generation:
        raise ConcurrentWriteError(
            f"Replica {replica.replica} already serves generation {replica.generation} of {traffic.model!r}, "
            f"not {traffic.generation}: somebody moved the traffic meanwhile."
        )
    if candidate and f"Version {candidate} is refused:" in replica.error:
        raise NotLoadedError(f"Replica {replica.replica}: {replica.error}")

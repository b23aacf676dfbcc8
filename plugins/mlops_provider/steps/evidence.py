"""Keep what an operator that works alone found: in the ledger if there is one, else in what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlops_provider.core.names import Kind
from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from datetime import datetime

    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.ledger import Ledger

RECORD = "record"
"""Field of the result that holds the ledger ID; None if nothing was recorded."""


def decide_once(
    ledger: Ledger | None,
    kind: Kind,
    model: str,
    compute: Callable[[], Mapping[str, Any]],
    *,
    inputs: Mapping[str, Any],
    origin: Origin,
    as_of: datetime | None = None,
) -> dict[str, Any]:
    """
    Decide, and keep the decision; a retry gets the one of its first try if there is a ledger.

    :param ledger: None if there is none: then the result is all there is.
    :param inputs: What *compute* decides on, JSON. A run that is cleared after they changed decides anew.
    :param compute: Decides; gives JSON.
    :return: The decision, with ``record``: its ledger ID, or None.
    """
    if ledger is None:
        return {**compute(), RECORD: None}
    record = ledger.decide_once(kind, model, origin.key, compute, inputs=inputs, actor=origin.actor, as_of=as_of)
    return {**record.payload, RECORD: record.record_id}


def record_decision(
    ledger: Ledger, model: str, decision: Mapping[str, Any], *, origin: Origin, as_of: datetime | None = None
) -> str:
    """
    Record what somebody decided, in the words of their own DAG.

    :param decision: JSON with text keys.
    :return: Ledger ID; that of the first try if a retry decides the same.
    :raises ConfigurationError: It holds something that JSON has no type for. Not retried.
    """
    try:
        record = ledger.decide_once(
            Kind.DECISION,
            model,
            origin.key,
            lambda: {"decision": dict(decision), "origin": origin.key},
            inputs=dict(decision),
            actor=origin.actor,
            as_of=as_of,
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The decision cannot be recorded: it must be JSON with text keys ({error})."
        ) from error
    return record.record_id

"""Which versions may have traffic: the rule that rollouts and servers both hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_provider.core.names import Kind
from mlops_provider.exceptions import RolloutRefusedError
from mlops_provider.steps.provenance import registration

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.stores.ledger import Ledger


def require_approval(ledger: Ledger, model: str, version: str) -> Record:
    """
    Give the gate record that lets *version* serve.

    :raises RolloutRefusedError: The ledger knows no registration of it, or no passing verdict on its very run.
        Not retried.
    """
    registered = registration(ledger, model, version)
    if registered is None:
        raise RolloutRefusedError(
            f"Version {version} of {model!r} was not registered through the gate: the ledger has no registration of "
            "it. Train it with the model's train DAG."
        )
    gate = _gate_of(ledger, registered)
    if gate is None or not gate.payload.get("passed") or gate.payload.get("run_id") != registered.payload.get("run_id"):
        raise RolloutRefusedError(f"Version {version} of {model!r} has no passing verdict of the gate on its run.")
    return gate


def refuse_outdated(ledger: Ledger, model: str, version: str, champion: str | None) -> None:
    """
    Keep out what was never compared with the version it would replace.

    :param champion: Version that serves now.
    :raises RolloutRefusedError: *version* passed the gate against another champion. Not retried.
    """
    gate = require_approval(ledger, model, version)
    beaten = ledger.get(gate.payload["declaration"]).payload["champion_version"]
    if beaten != champion:
        against = f"against version {beaten}" if beaten else "when no version served"
        raise RolloutRefusedError(
            f"Version {version} of {model!r} passed the gate {against}, but version {champion} serves now. "
            "Train again to compare with it."
        )


def refuse_rolled_back(ledger: Ledger, model: str, version: str) -> None:
    """
    Keep out what was taken back once.

    :raises RolloutRefusedError: *version* was rolled back before. Not retried.
    """
    for record in ledger.history(Kind.ROLLBACK, model):
        if version in record.payload["refused"]:
            raise RolloutRefusedError(
                f"Version {version} of {model!r} was rolled back on {record.recorded_at[:10]} "
                f"({record.payload['reason']}) and does not return. Train a new version."
            )


def rolled_back(ledger: Ledger, model: str) -> set[str]:
    """Versions that were rolled back at any time."""
    return {version for record in ledger.history(Kind.ROLLBACK, model) for version in record.payload["refused"]}


def _gate_of(ledger: Ledger, registered: Record) -> Record | None:
    record_id: Any = registered.payload.get("gate")
    return ledger.get(record_id) if isinstance(record_id, str) else None

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
    if gate is None or not gate.payload.get("passed") or gate.payload.get("run_id") != _trained_run(ledger, registered):
        raise RolloutRefusedError(f"Version {version} of {model!r} has no passing verdict of the gate on its run.")
    return gate


def _trained_run(ledger: Ledger, registered: Record) -> Any:
    """The MLflow run that trained a version; one that was promoted has it where it was registered first."""
    while promoted := registered.payload.get("promoted"):
        registered = ledger.get(promoted["registration"])
    return registered.payload.get("run_id")


def beaten(ledger: Ledger, model: str, version: str) -> tuple[str, ...]:
    """
    Gate records of all versions that *version* was found no worse than: the champion it met, the one that met, ...

    Version numbers differ between environments, gate records do not.

    :raises RolloutRefusedError: One of them has no passing verdict. Not retried.
    """
    found: list[str] = []
    while True:
        gate = require_approval(ledger, model, version)
        registered = registration(ledger, model, version)
        if registered and (promoted := registered.payload.get("promoted")):
            return (*found, *promoted["beaten"])
        champion = ledger.get(gate.payload["declaration"]).payload["champion_version"]
        if champion is None:
            return tuple(found)
        found.append(require_approval(ledger, model, champion).record_id)
        version = champion


def refuse_outdated(ledger: Ledger, model: str, version: str, champion: str | None) -> None:
    """
    Keep out what was never compared with the version it would replace.

    :param champion: Version that serves now.
    :raises RolloutRefusedError: *version* passed the gate against another champion. Not retried.
    """
    gate = require_approval(ledger, model, version)
    registered = registration(ledger, model, version)
    if registered and (promoted := registered.payload.get("promoted")):
        if champion is None or require_approval(ledger, model, champion).record_id in promoted["beaten"]:
            return
        raise RolloutRefusedError(
            f"Version {version} of {model!r} was promoted from {promoted['from']}, where it was never compared with "
            f"version {champion}, which serves here, nor with one that beat it. Promote a version that was."
        )
    met = ledger.get(gate.payload["declaration"]).payload["champion_version"]
    if met != champion:
        against = f"against version {met}" if met else "when no version served"
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

"""Which versions may have traffic: the rule that rollouts and servers both hold."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from mlops_provider.core.approval import ApprovalPolicy, is_needed, stricter, why_not
from mlops_provider.core.names import Kind
from mlops_provider.exceptions import RolloutRefusedError
from mlops_provider.steps.provenance import registration

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.ledger import Ledger


def require_gate(ledger: Ledger, model: str, version: str) -> Record:
    """
    Give the gate record that lets *version* serve.

    :raises RolloutRefusedError: The ledger knows no registration of it, or no passing verdict on its very run.
        Not retried.
    """
    registered = registration(ledger, model, version)
    if registered is None:
        raise RolloutRefusedError(
            f"Version {version} of {model!r} was not registered through the gate: the ledger has no registration of "
            "it. Train it with the model's train DAG, or `mlops run train`."
        )
    gate = _gate_of(ledger, registered)
    if gate is None or not gate.payload.get("passed") or gate.payload.get("run_id") != _trained_run(ledger, registered):
        raise RolloutRefusedError(f"Version {version} of {model!r} has no passing verdict of the gate on its run.")
    return gate


def approval_of(ledger: Ledger, model: str, version: str) -> Record | None:
    """Newest answer to the question whether *version* may have traffic; None if nobody answered."""
    found = reversed(ledger.history(Kind.APPROVAL, model))
    return next((record for record in found if record.payload["version"] == version), None)


def needs_person(ledger: Ledger, gate: Record, policy: ApprovalPolicy) -> bool:
    """
    Whether a person has to agree to a version.

    :param gate: Its verdict; the declaration it was judged under counts, too, if it asks more often.
    :param policy: What model.yaml says now.
    """
    declared: ApprovalPolicy = ledger.get(gate.payload["declaration"]).payload.get("approval", "never")
    return is_needed(stricter(policy, declared), gate.payload.get("warnings", ()))


def objection(ledger: Ledger, answer: Record, *, actor: str = "", approvers: Collection[str] = ()) -> str:
    """
    Say why an approval does not count; nothing if it does.

    :param actor: Who deploys the version; an author of it like those who were shown with the question.
    :param approvers: Who may decide, as model.yaml says now; anybody else than an author if empty.
    """
    said = answer.payload
    authors = (*ledger.get(said["request"]).payload["authors"], actor)
    return why_not((said["by"], *said.get("also_called", ())), authors=authors, approvers=approvers)


def refuse_rejected(ledger: Ledger, model: str, version: str) -> None:
    """
    Keep out what a person rejected.

    :raises RolloutRefusedError: It was rejected, or nobody answered in time. Not retried.
    """
    answer = approval_of(ledger, model, version)
    if answer is not None and not answer.payload["approved"]:
        raise RolloutRefusedError(f"{rejection(answer)} Train a new version.")


def refuse_unapproved(
    ledger: Ledger,
    model: str,
    version: str,
    policy: ApprovalPolicy = "never",
    *,
    actor: str = "",
    approvers: Collection[str] = (),
) -> None:
    """
    Keep out what a person rejected, or has to approve and did not.

    :param policy: What model.yaml says now; by default only what was declared before training counts.
    :param actor: Who deploys it, whose own approval does not count; empty or "airflow" if that is no person.
    :param approvers: Who may approve, as model.yaml says now; by default everybody but an author.
    :raises RolloutRefusedError: It was rejected, or nobody who may has approved it. Not retried.
    """
    gate = require_gate(ledger, model, version)
    refuse_rejected(ledger, model, version)
    if not needs_person(ledger, gate, policy):
        return
    answer = approval_of(ledger, model, version)
    if answer is None:
        raise RolloutRefusedError(
            f"Version {version} of {model!r} needs a person's approval and has none: start the model's deploy DAG and "
            f"answer in Airflow under Required Actions, or run `mlops approve {model}@{version} --reason ...`."
        )
    if against := objection(ledger, answer, actor=actor, approvers=approvers):
        raise RolloutRefusedError(
            f"The approval of version {version} of {model!r} does not count: {against}. Another person has to approve "
            "it: the model's deploy DAG asks again. Who approves a version leaves its deployment to others."
        )


def stale(asked: Record, champion: str | None) -> str:
    """Say that a question, or the answer to it, is about another champion than the one that serves now."""
    then, now = (f"version {version}" if version else "no version" for version in (asked.payload["champion"], champion))
    version = asked.payload["version"]
    return (
        f"The approval of version {version} of {asked.model!r} was asked for when {then} served, and {now} serves now: "
        "what was shown is out of date. Train again to compare with it."
    )


def rejection(answer: Record) -> str:
    """Say who rejected a version, when and why."""
    said = answer.payload
    by = f"by {said['by']}" if said["by"] else "by the clock"
    return (
        f"Version {said['version']} of {answer.model!r} was rejected {by} on {said['responded_at'][:10]}: "
        f"{said['reason'].rstrip('.')}."
    )


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
        gate = require_gate(ledger, model, version)
        registered = registration(ledger, model, version)
        if registered and (promoted := registered.payload.get("promoted")):
            return (*found, *promoted["beaten"])
        champion = ledger.get(gate.payload["declaration"]).payload["champion_version"]
        if champion is None:
            return tuple(found)
        found.append(require_gate(ledger, model, champion).record_id)
        version = champion


def refuse_outdated(ledger: Ledger, model: str, version: str, champion: str | None) -> None:
    """
    Keep out what was never compared with the version it would replace, or approved when another one served.

    :param champion: Version that serves now.
    :raises RolloutRefusedError: *version* passed the gate, or was approved, against another champion. Not retried.
    """
    gate = require_gate(ledger, model, version)
    answer = approval_of(ledger, model, version)
    if answer is not None and answer.payload["champion"] != champion:
        raise RolloutRefusedError(stale(answer, champion))
    registered = registration(ledger, model, version)
    if registered and (promoted := registered.payload.get("promoted")):
        if champion is None or require_gate(ledger, model, champion).record_id in promoted["beaten"]:
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


def refuse_aborted(ledger: Ledger, model: str, version: str, origin: Origin) -> None:
    """
    End the runs whose rollout a person has aborted; a new run may deploy the version again.

    :raises RolloutRefusedError: *version* was aborted after this run had moved traffic for it. Not retried.
    """
    aborted = [each for each in ledger.history(Kind.ABORT, model) if each.payload["version"] == version]
    if not aborted:
        return
    for record in ledger.history(Kind.TRAFFIC, model):
        if (
            record.seq < aborted[-1].seq
            and version in record.payload["split"]
            and origin.same_run(record.payload["origin"])
        ):
            raise RolloutRefusedError(
                f"The rollout of version {version} of {model!r} was aborted by {aborted[-1].actor or 'somebody'} "
                f"({aborted[-1].payload['reason']}). Deploy it in a new run if it shall come after all."
            )


def rolled_back(ledger: Ledger, model: str) -> set[str]:
    """Versions that were rolled back at any time."""
    return {version for record in ledger.history(Kind.ROLLBACK, model) for version in record.payload["refused"]}


def _gate_of(ledger: Ledger, registered: Record) -> Record | None:
    record_id: Any = registered.payload.get("gate")
    return ledger.get(record_id) if isinstance(record_id, str) else None

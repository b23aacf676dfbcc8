"""
A person's word before traffic moves: what was asked, what was answered, both in the ledger.

Who is asked sees a text made of the records alone; its digest is part of the answer. The first answer about a version
counts, whoever asks again; only an approval by somebody who may not approve does not stand in the way of another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from mlops_provider.core.approval import ApprovalPolicy, persons, why_not
from mlops_provider.core.names import Kind, Tag
from mlops_provider.exceptions import NotApprovedError, RolloutRefusedError
from mlops_provider.steps import approval_body
from mlops_provider.steps.approval import (
    approval_of,
    needs_person,
    objection,
    refuse_outdated,
    refuse_rolled_back,
    require_gate,
    stale,
)
from mlops_provider.steps.provenance import registration, training_of
from mlops_provider.steps.traffic import champion

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.suite import Stores


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What became of asking.

    :param request: The question, if a person has to answer it.
    :param answer: The answer, if there is one already; neither, if nobody has to be asked.
    """

    request: Record | None = None
    answer: Record | None = None


def ask(
    model: str,
    stores: Stores,
    version: str,
    *,
    policy: ApprovalPolicy,
    approvers: Sequence[str] = (),
    links: Callable[[Record], Mapping[str, str]] = lambda evaluation: {},
    origin: Origin,
) -> Asked:
    """
    Record the question whether *version* may have traffic, with all that is shown to whoever answers.

    :param policy: When a person has to agree, as model.yaml says now; the stricter of it and the declaration counts.
    :param approvers: Who may answer; by default everybody but those who started training or deployment.
    :param links: Gives title -> address of pages to show, from the record of the evaluation.
    :raises RolloutRefusedError: It never passed the gate, was rolled back, or is out of date. Not retried.
    """
    ledger = stores.ledger
    gate = require_gate(ledger, model, version)
    refuse_rolled_back(ledger, model, version)
    answer = approval_of(ledger, model, version)
    if answer is not None and not answer.payload["approved"]:
        return Asked(answer=answer)
    traffic, serving = ledger.traffic(model), champion(ledger, model)
    if traffic is None or version not in traffic.split:
        refuse_outdated(ledger, model, version, serving)
    if not needs_person(ledger, gate, policy):
        return Asked(answer=answer)
    if answer is not None and not objection(ledger, answer, actor=origin.actor, approvers=approvers):
        return Asked(answer=answer)

    registered = registration(ledger, model, version)
    assert registered is not None  # or it would have no verdict
    training = training_of(ledger, registered)
    declaration = ledger.get(gate.payload["declaration"])
    began = [record.actor for record in (declaration, training, registered) if record]
    authors = persons({*began, origin.actor})
    evaluation = ledger.get(registered.payload["evaluation"])
    text = approval_body.body(
        evaluation,
        gate,
        declaration,
        training or declaration,
        champion=serving,
        authors=authors,
        approvers=approvers,
        links=links(evaluation),
    )
    payload = {
        "version": version,
        "policy": policy,
        "gate": gate.record_id,
        "champion": serving,
        "generation": traffic.generation if traffic else 0,
        "authors": list(authors),
        "approvers": list(approvers),
        "body": text,
        "digest": sha256(text.encode()).hexdigest(),
        "origin": origin.key,
    }
    key = f"{origin.key}:{payload['digest']}"
    return Asked(request=ledger.append(Kind.APPROVAL_REQUEST, model, payload, key=key, actor=origin.actor))


def unanswered(stores: Stores, model: str, version: str) -> Record | None:
    """Newest question about *version* that nobody answered and that is not out of date."""
    ledger = stores.ledger
    about = (version, champion(ledger, model))
    for asked in reversed(ledger.history(Kind.APPROVAL_REQUEST, model)):
        if (asked.payload["version"], asked.payload["champion"]) == about:
            return None if _answered(ledger, asked, asked.payload["approvers"]) else asked
    return None


def asked_by(stores: Stores, model: str, version: str, origin: Origin) -> Record | None:
    """Newest question about *version* that this very task asked."""
    found = reversed(stores.ledger.history(Kind.APPROVAL_REQUEST, model))
    mine = (origin.key, version)
    return next((each for each in found if (each.payload["origin"], each.payload["version"]) == mine), None)


def answer(
    stores: Stores,
    request: Record,
    *,
    approved: bool,
    reason: str,
    by: str,
    also_called: Sequence[str] = (),
    approvers: Collection[str],
    responded_at: datetime | None = None,
    origin: Origin,
) -> Record:
    """
    Record an answer; the first one about a version counts, and is what every later one gets.

    A rejected version is tagged so in the registry.

    :param by: Who answers; empty if nobody did in time, which can only reject.
    :param also_called: Other names of that person, such as a user ID.
    :param approvers: Who may decide, as model.yaml says now; anybody but an author if empty.
    :param responded_at: When; by default now.
    :raises NotApprovedError: Whoever approves must not: an author, or none of the approvers. Not retried.
    :raises RolloutRefusedError: Another version serves now than when it was asked. Not retried.
    """
    ledger, model, asked = stores.ledger, request.model, request.payload
    if before := _answered(ledger, request, approvers if by else None):
        show(stores, before)
        return before
    if approved:
        if against := why_not((by, *also_called), authors=asked["authors"], approvers=approvers):
            raise NotApprovedError(f"Version {asked['version']} of {model!r} is not approved: {against}.")
        if asked["champion"] != (serving := champion(ledger, model)):
            raise RolloutRefusedError(stale(request, serving))
    payload = {
        "request": request.record_id,
        "version": asked["version"],
        "approved": approved,
        "by": by,
        "also_called": [name for name in also_called if name and name != by],
        "reason": reason,
        "seen": asked["digest"],
        "champion": asked["champion"],
        "generation": asked["generation"],
        "responded_at": (responded_at or datetime.now(UTC)).isoformat(),
        "origin": origin.key,
    }
    record = ledger.append(Kind.APPROVAL, model, payload, key=request.record_id, actor=by or origin.actor)
    show(stores, record)
    return record


def _answered(ledger: Ledger, request: Record, approvers: Collection[str] | None) -> Record | None:
    """
    Give the answer that makes a question superfluous: its own, or an earlier one about the same version.

    :param approvers: If given, an earlier approval by none of them, or by an author, leaves the question open. None
        if it only ran out of time.
    """
    if own := ledger.find(Kind.APPROVAL, request.record_id):
        return own
    earlier = approval_of(ledger, request.model, request.payload["version"])
    if earlier is None or approvers is None or not earlier.payload["approved"]:
        return earlier
    said = earlier.payload
    names, authors = (said["by"], *said.get("also_called", ())), request.payload["authors"]
    return None if why_not(names, authors=authors, approvers=approvers) else earlier


def show(stores: Stores, answer: Record) -> None:
    """Show a rejection in the registry, as a tag; repeated, it changes nothing."""
    said = answer.payload
    if not said["approved"]:
        by = said["by"] or "nobody answered in time"
        stores.registry.tag_version(answer.model, said["version"], {Tag.REJECTED: f"{by}: {said['reason']}"})

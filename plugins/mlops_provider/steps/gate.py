"""Hold an evaluation against the limits that were declared before training. Needs the ledger only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlops_provider.core import gates
from mlops_provider.core.evaluation import Evaluation
from mlops_provider.core.names import Kind
from mlops_provider.core.origin import Origin
from mlops_provider.exceptions import EvidenceError

if TYPE_CHECKING:
    from mlops_provider.stores.suite import Stores


def decide_gate(
    stores: Stores, *, evaluation: str, declaration: str, limits_digest: str | None = None, origin: Origin
) -> tuple[str, gates.Verdict]:
    """
    Decide whether the evaluated candidate passes.

    :param evaluation: Ledger ID of the evaluation.
    :param declaration: Ledger ID of the gate's declaration.
    :param limits_digest: Digest of the limits as they stand now; the gate refuses if they are no longer those that
        were declared. Not checked if None.
    :return: Ledger ID of the verdict, and the verdict.
    :raises EvidenceError: The evaluation was made under another declaration. Not retried.
    """
    evaluated, declared = stores.ledger.get(evaluation), stores.ledger.get(declaration)
    if evaluated.kind != Kind.EVALUATION or evaluated.payload.get("declaration") != declaration:
        raise EvidenceError(f"Record {evaluation!r} is no evaluation under the declaration {declaration!r}.")

    def decide() -> Mapping[str, Any]:
        verdict = gates.decide(
            gates.GatePolicy.from_json(declared.payload["limits"]),
            Evaluation.from_json(evaluated.payload),
            declared_digest=limits_digest or declared.payload["digest"],
            champion_version=declared.payload["champion_version"],
        )
        return {
            **verdict.as_json(),
            "summary": verdict.summary,
            "run_id": evaluated.payload["run_id"],
            "partition": evaluated.payload["partition"],
            "evaluation": evaluation,
            "declaration": declaration,
        }

    record = stores.ledger.decide_once(
        Kind.GATE,
        evaluated.model,
        origin.key,
        decide,
        inputs={"evaluation": evaluation, "limits": limits_digest},
        actor=origin.actor,
        as_of=evaluated.as_of,
    )
    return record.record_id, gates.Verdict.from_json(record.payload)

"""What is fixed before a model is trained: limits, the champion to beat, and the data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlops_provider.core import partitions
from mlops_provider.core.approval import ApprovalPolicy
from mlops_provider.core.gates import GatePolicy
from mlops_provider.core.names import Kind, Table
from mlops_provider.core.payload import Payload
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError, EvidenceError
from mlops_provider.steps.outcomes import ensure_outcomes
from mlops_provider.steps.traffic import champion

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


@dataclass(frozen=True, slots=True)
class Declaration(Payload):
    """
    The payload of a declaration. Tables are named by version, so that every later step reads the same rows.

    :param through: Partition the candidate is judged on.
    :param trained_on: Partitions it is fitted on, all earlier.
    :param digest: Digest of the limits.
    :param approval: When a person has to agree before the version gets traffic.
    """

    through: str
    trained_on: tuple[str, ...]
    features: TableRef
    outcomes: TableRef
    limits: GatePolicy
    digest: str
    champion_version: str | None
    spec_digest: str
    code_digest: str
    approval: ApprovalPolicy = "never"


def declare_gate(spec: ModelSpec, stores: Stores, through: str, *, origin: Origin) -> str:
    """
    Fix the limits, the champion to beat and the data, in the ledger, before any training.

    Outcomes that nobody recorded yet are recorded first. Later steps read exactly the table versions named here.

    :param through: Partition the candidate is judged on; it is fitted on all earlier ones.
    :return: Ledger ID of the declaration.
    :raises DataRejectedError: There are no features of *through* or of any partition before it, or its labels are not
        due yet. Not retried.
    """
    through = partitions.check(through)

    uri = stores.tables.uri(spec.name, Table.FEATURES)
    built = stores.tables.partitions(uri)
    earlier = tuple(partition for partition in built if partition < through)
    version = stores.tables.version(uri)
    if version is None or through not in built or not earlier:
        raise DataRejectedError(
            f"{spec.name!r} cannot be trained and judged on {through}: features are needed of {through} and of a "
            f"partition before it, and there are those of {', '.join(built) or 'none'}. Run the ingest DAG first."
        )
    if (due := spec.labels_known_at(through)) > datetime.now(UTC):
        raise DataRejectedError(
            f"{spec.name!r} cannot be judged on {through} before all its labels are known, on {due.date()}."
        )
    used = [*earlier, through]
    features, outcomes = TableRef(uri, version), ensure_outcomes(spec, stores, used, origin=origin)
    policy = spec.gate_policy
    declared = Declaration(
        through=through,
        trained_on=earlier,
        features=features,
        outcomes=outcomes,
        limits=policy,
        digest=policy.digest,
        champion_version=champion(stores.ledger, spec.name),
        spec_digest=spec.digest,
        code_digest=spec.code_digest,
        approval=spec.approval.policy,
    ).as_json()
    # Table versions also rise when other months are written; the files of these months tell whether these changed.
    held = {str(table.table): stores.tables.fingerprint(table, used) for table in (features, outcomes)}

    record = stores.ledger.decide_once(
        Kind.DECLARATION,
        spec.name,
        origin.key,
        lambda: declared,
        inputs={**declared, "features": held[features.table], "outcomes": held[outcomes.table]},
        actor=origin.actor,
        as_of=spec.labels_known_at(through),
    )
    return record.record_id


def declared_for(spec: ModelSpec, stores: Stores, through: str, declaration: str) -> Record:
    """
    Give the declaration's record, if it is about *through*.

    :raises EvidenceError: It is not. Not retried.
    """
    record = stores.ledger.get(declaration)
    if (record.kind, record.model, record.payload.get("through")) != (Kind.DECLARATION, spec.name, through):
        raise EvidenceError(f"Record {declaration!r} is no declaration of a gate of {spec.name!r} on {through}.")
    return record

"""Where a version came from, as the ledger tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_provider.core.evaluation import CANDIDATE, Evaluation
from mlops_provider.core.evidence import original
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import Kind
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import EvidenceError

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.stores.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Provenance:
    """
    How a registered version was made.

    :param trained_on: Partitions it was fitted on.
    :param gated_on: Partition it passed the gate on.
    :param features: Version of the features table it was fitted and gated on; of a copy, if it was promoted.
    :param columns: Feature columns it sees.
    :param expected: Its scores on the partition of the gate, by metric.
    """

    version: str
    run_id: str
    trained_on: tuple[str, ...]
    gated_on: str
    features: TableRef
    columns: tuple[str, ...]
    expected: dict[str, Interval]

    @property
    def trained_through(self) -> str:
        """Last partition it was fitted on."""
        return self.trained_on[-1]


def registration(ledger: Ledger, model: str, version: str) -> Record | None:
    """Newest record that says *version* was registered through the gate; None if the ledger knows of none."""
    found = reversed(ledger.history(Kind.REGISTRATION, model))
    return next((record for record in found if record.payload.get("version") == version), None)


def promoted(ledger: Ledger, model: str, version: str) -> bool:
    """Whether *version* came from another environment."""
    registered = registration(ledger, model, version)
    return registered is not None and "promoted" in registered.payload


def provenance(ledger: Ledger, model: str, version: str) -> Provenance:
    """
    Look up how *version* was made.

    :raises EvidenceError: The ledger does not hold its registration, training or evaluation. Not retried.
    """
    registered = registration(ledger, model, version)
    training = training_of(ledger, registered) if registered else None
    if registered is None or training is None:
        raise EvidenceError(
            f"The ledger does not say how version {version} of {model!r} was made. Is it another ledger?"
        )
    evaluation = Evaluation.from_json(ledger.get(registered.payload["evaluation"]).payload)
    candidate = evaluation.of(CANDIDATE)
    return Provenance(
        version=version,
        run_id=registered.payload["run_id"],
        trained_on=tuple(training.payload["trained_on"]),
        gated_on=evaluation.partition,
        features=TableRef.from_json(registered.payload.get("features") or training.payload["features"]),
        columns=tuple(training.payload["columns"]),
        expected=dict(candidate.metrics) if candidate else {},
    )


def training_of(ledger: Ledger, registered: Record) -> Record | None:
    """Record of the training behind a registration, which may have been imported; None if there is none."""
    if promoted := registered.payload.get("promoted"):
        return ledger.get(promoted["training"])
    return ledger.find(Kind.TRAINING, registered.payload["run_id"])


def made_of(ledger: Ledger, training: Record) -> list[Record]:
    """Records behind a model of segments: its parent's training, the plan, each decision; none behind another one."""
    found = training.payload
    if "parent" not in found:
        return []
    parent = ledger.find(Kind.TRAINING, found["parent"]) or _imported_training(ledger, training.model, found["parent"])
    return [*([parent] if parent else []), *map(ledger.get, (found["plan"], *found["segments"]))]


def evidence(ledger: Ledger, registered: Record, training: Record) -> list[Record]:
    """
    Every record that a registration rests on, and itself; oldest first, each once.

    :param training: Record of the training behind it.
    """
    declaration = ledger.get(registered.payload["declaration"])
    searches = [
        each
        for each in ledger.history(Kind.SEARCH, registered.model)
        if each.payload["declaration"] == declaration.record_id
    ]
    earlier = sorted(
        (ledger.get(record_id) for record_id in registered.payload.get("promoted", {}).get("evidence", ())),
        key=lambda record: record.recorded_at,
    )
    judged = [ledger.get(registered.payload[kind]) for kind in (Kind.EVALUATION, Kind.GATE)]
    own = [declaration, *searches, *made_of(ledger, training), training, *judged, registered]
    return list({record.record_id: record for record in (*earlier, *own)}.values())


def _imported_training(ledger: Ledger, model: str, run_id: str) -> Record | None:
    """Training of a run of another environment, which a promotion brought along."""
    imported = (original(record) for record in ledger.history(Kind.IMPORT, model))
    return next((each for each in imported if (each.kind, each.key) == (Kind.TRAINING, run_id)), None)

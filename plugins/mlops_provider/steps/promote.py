"""A version moves from one environment to the next: the same bytes with the same evidence, never trained anew."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.core.names import Alias, Kind, Table, Tag
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import EvidenceError, RolloutRefusedError
from mlops_provider.steps.approval import beaten, refuse_rejected, refuse_rolled_back, require_gate
from mlops_provider.steps.provenance import evidence, provenance, training_of
from mlops_provider.steps.provenance import registration as registration_of

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.suite import Stores

log = logging.getLogger(__name__)

_NOT_COPIED = {Tag.LEDGER_HEAD, Tag.PROMOTED_FROM}
"""Tags that each environment writes itself."""


def promote(
    model: str,
    version: str,
    *,
    source: Stores,
    destination: Stores,
    source_name: str,
    destination_name: str,
    origin: Origin,
) -> str:
    """
    Copy a registered version, with the evidence it rests on, into another environment's stores.

    The files stay equal byte by byte. The records of its declaration, search, training, evaluation, gate and
    registration are imported under their own IDs. It becomes ``challenger`` there; traffic is the business of deploy.
    Repeating it changes nothing, and completes what a killed try began.

    :param source_name: Environment it comes from, for the records.
    :param destination_name: Environment it goes to, for messages.
    :return: Its version number in *destination*.
    :raises RolloutRefusedError: It never passed the gate in *source*, or was rejected or rolled back there. Not
        retried.
    :raises EvidenceError: The evidence or the files in *source* were changed after they were recorded, or a ledger
        that is a copy of *source*'s has not the registry that belongs to it. Not retried.
    :raises StoreUnavailableError: A store is away. Retried.
    """
    if source.ledger.url == destination.ledger.url:
        raise RolloutRefusedError(
            f"{source_name} and {destination_name} have one ledger: there is nothing to promote between them."
        )
    where = f"{model!r} version {version} of {source_name}"
    registration, records = _evidence(source, model, version, where)
    if destination.ledger.holds(registration):
        if differs := _registry_differs(destination, registration):
            raise EvidenceError(
                f"{where} is in the ledger of {destination_name}, a copy of that of {source_name}, but {differs}. "
                "Name the registry that was restored with that ledger, or restore both from one backup."
            )
        log.info("%s is in %s already: its ledger is a copy of that one, made later.", where, destination_name)
        return version
    promoted = {
        "from": source_name,
        "version": version,
        "run_id": registration.payload["run_id"],
        "registration": registration.record_id,
        "training": _training(source, registration, where).record_id,
        "beaten": list(beaten(source.ledger, model, version)),
        "evidence": {record.record_id: record.digest for record in records},
    }
    with tempfile.TemporaryDirectory() as folder:
        files = source.registry.download_model(f"models:/{model}/{version}", Path(folder, "source"))
        digest = source.registry.model_digest(f"models:/{model}/{version}")
        _require_recorded(registration, digest, where)
        for record in records:
            destination.ledger.import_record(record, source=source_name, actor=origin.actor)
        log.info("%s: %s records of its evidence are in the ledger of %s", where, len(records), destination_name)
        came_from = f"{source_name}/{model}/{version}"
        run_id, arrived = _copied(source, destination, registration, files, came_from)
    found = destination.registry.model_digest(f"models:/{model}/{arrived}")
    if found != digest:
        raise EvidenceError(
            f"The files of {where} arrived changed: SHA-256 {digest} there, {found} as version {arrived} of "
            f"{destination_name}. Delete that version in MLflow and promote again."
        )
    log.info("%s is version %s of %s, files SHA-256 %s", where, arrived, destination_name, digest)

    record = destination.ledger.append(
        Kind.REGISTRATION,
        model,
        {
            **{name: registration.payload[name] for name in ("gate", "evaluation", "declaration", "trained_through")},
            **{name: registration.payload[name] for name in ("scorer", "trust") if name in registration.payload},
            "version": arrived,
            "run_id": run_id,
            "files": digest,
            "features": _reference(source, destination, model, version, arrived, origin).as_json(),
            "promoted": promoted,
        },
        key=run_id,
        actor=origin.actor,
        as_of=registration.as_of,
    )
    if destination.registry.version(model, arrived).tags.get(Tag.LEDGER_HEAD) != record.digest:
        destination.registry.set_alias(model, Alias.CHALLENGER, arrived)
        destination.registry.tag_version(model, arrived, {Tag.LEDGER_HEAD: record.digest})
    return arrived


def _evidence(source: Stores, model: str, version: str, where: str) -> tuple[Record, list[Record]]:
    """
    Give the registration of a version and every record it rests on, oldest first; all of it whole.

    :raises EvidenceError: The chain of the ledger breaks, or the registry says something else. Not retried.
    """
    ledger = source.ledger
    if broken := ledger.verify():
        record, reason = broken
        raise EvidenceError(
            f"{where} is not promoted: the ledger it rests on breaks at record {record.seq} ({record.kind} of "
            f"{record.model}, {record.record_id}): {reason}."
        )
    require_gate(ledger, model, version)
    refuse_rejected(ledger, model, version)
    refuse_rolled_back(ledger, model, version)
    registration = registration_of(ledger, model, version)
    assert registration is not None  # or it would not be approved
    if differs := _registry_differs(source, registration):
        raise EvidenceError(f"{where} is not promoted: {differs}. `mlops audit verify` in that environment tells more.")
    training = _training(source, registration, where)
    return registration, evidence(ledger, registration, training)


def _registry_differs(stores: Stores, registration: Record) -> str:
    """Say in what MLflow and the registration of a version differ; nothing if they agree."""
    model, version, run_id = registration.model, registration.payload["version"], registration.payload["run_id"]
    found = next((each for each in stores.registry.versions(model) if each.version == version), None)
    if found is None:
        return f"its MLflow has no version {version} of {model!r}"
    tag = found.tags.get(Tag.LEDGER_HEAD)
    if tag == registration.digest and found.run_id == run_id:
        return ""
    return (
        f"in its MLflow version {version} is run {found.run_id!r} with the tag {Tag.LEDGER_HEAD} {tag}, and the ledger "
        f"registered run {run_id!r} with {registration.digest}"
    )


def _training(source: Stores, registration: Record, where: str) -> Record:
    training = training_of(source.ledger, registration)
    if training is None:
        raise EvidenceError(f"{where} is not promoted: the ledger does not hold its training.")
    return training


def _require_recorded(registration: Record, digest: str, where: str) -> None:
    """Refuse files that are not those that were registered."""
    recorded = registration.payload.get("files", digest)  # versions registered by 0.1 have no digest of their files
    if recorded != digest:
        raise EvidenceError(
            f"{where} is not promoted: its files have the SHA-256 {digest}, and {recorded} was registered. They were "
            "changed in the artifact store; train a new version."
        )


def _copied(source: Stores, destination: Stores, registration: Record, files: Path, came_from: str) -> tuple[str, str]:
    """Make run and version in *destination*, or find those of an earlier try; give both their IDs."""
    model, version = registration.model, registration.payload["version"]
    # Read before anything is written: of two MLflow servers with logins, the one that was opened last counts.
    run = source.registry.logged(registration.payload["run_id"])
    found = source.registry.version(model, version).tags
    registry = destination.registry
    run_id = registry.ensure_run(
        model,
        f"promoted/{registration.record_id}",
        name=came_from,
        tags={**run.tags, Tag.PROMOTED_FROM: came_from},
    )
    registry.log(run_id, params=run.params, metrics=run.metrics)
    registry.copy_model(run_id, files)
    tags = {name: value for name, value in found.items() if name not in _NOT_COPIED}
    arrived = registry.ensure_version(model, run_id, tags={**tags, Tag.PROMOTED_FROM: came_from})
    registry.finish(run_id)
    return run_id, arrived


def _reference(source: Stores, destination: Stores, model: str, version: str, arrived: str, origin: Origin) -> TableRef:
    """
    Give the features it was trained and gated on, which drift is measured against, as *destination* can read them.

    They are copied if the environments have tables of their own.
    """
    made = provenance(source.ledger, model, version)
    if source.tables.root == destination.tables.root:
        return made.features
    uri = destination.tables.uri(model, f"{Table.REFERENCE}_{arrived}")
    copied: TableRef | None = None
    for partition in dict.fromkeys((*made.trained_on, made.gated_on)):
        writer = destination.tables.replace_partition(uri, partition)
        rows = source.tables.read(made.features, partitions=[partition])
        copied = writer.write(rows, origin_key=origin.key).ref
    assert copied is not None  # a version was gated on something
    return TableRef(uri, destination.tables.version(uri) or copied.version)


def imported_contradictions(stores: Stores, model: str) -> Sequence[str]:
    """Say which imported evidence is not what was exported, one sentence each; none if all of it holds."""
    found = []
    imported = {record.record_id: record for record in stores.ledger.history(Kind.IMPORT, model)}
    for record in imported.values():
        inner: dict[str, Any] = dict(record.payload["record"])
        original = stores.ledger.get(record.record_id)
        if original.record_id != record.record_id or original.digest != original.expected_digest:
            found.append(
                f"Record {record.seq} holds {inner.get('kind')} {record.record_id} of {record.payload['from']}, whose "
                "content does not match its digest: it was changed on its way."
            )
    for registration in stores.ledger.history(Kind.REGISTRATION, model):
        promoted = registration.payload.get("promoted", {})
        for record_id, digest in promoted.get("evidence", {}).items():
            if _held(stores.ledger, imported.get(record_id), record_id) != digest:
                found.append(
                    f"Version {registration.payload['version']} of {model!r} was promoted from {promoted['from']} with "
                    f"record {record_id} ({digest}), which the ledger does not hold as it was exported."
                )
    return found


def _held(ledger: Ledger, imported: Record | None, record_id: str) -> str | None:
    """Digest of a record as it was exported; None if the ledger lacks it. A copy of that ledger holds it as its own."""
    if imported is not None:
        return str(imported.payload["record"]["digest"])
    try:
        return ledger.get(record_id).digest
    except EvidenceError:
        return None

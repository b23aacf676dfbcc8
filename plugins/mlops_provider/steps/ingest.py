"""From a source to features, one month at a time. Every step can be repeated: equal content makes no new version."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from mlops_provider.adapters import features as feature_frames
from mlops_provider.adapters import validation as validations
from mlops_provider.adapters.expectations import NOT_REVIEWED, load_review
from mlops_provider.adapters.validation_page import validation_page
from mlops_provider.core import partitions
from mlops_provider.core.evidence import canonical
from mlops_provider.core.names import REPORT, Kind, Table
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError, EarlierPartitionMissingError, NothingToDo
from mlops_provider.steps.lineage import described, record_written
from mlops_provider.steps.source import read_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_provider.adapters.expectations import Expectation, Validation
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores
    from mlops_provider.stores.tables import Written

log = logging.getLogger(__name__)

REASONS = "reasons"
"""Column of the quarantine table: why the row is there, joined by semicolons."""
_LISTED = 10
"""Reasons a message lists at most; the rest is counted."""


def land(spec: ModelSpec, stores: Stores, partition: str, *, origin: Origin) -> TableRef:
    """
    Bring a month of raw data into a versioned table.

    What breaks a blocking expectation is not let in: a wrong type in the first month would become the table's type.

    :return: Reference to the landed month; an earlier version if the source has not changed.
    :raises SourceError: The source is missing, truncated or unreadable. Not retried.
    :raises DataRejectedError: It lacks a column, has a wrong type, or no rows. Not retried.
    :raises TransientError: The source or the store is away. Retried.
    """
    month = partitions.check(partition)
    writer = stores.tables.replace_partition(stores.tables.uri(spec.name, Table.RAW), month)
    frame = read_source(spec, stores, "land", month)
    expectations = validations.load_expectations(spec.expectations_path)
    blocking = [expectation for expectation in expectations if expectation.severity == "block"]
    checked = validations.validate(frame, blocking)
    if checked.blocking:
        found = _found(spec, stores, month, checked, blocking, origin=origin, data={"source": "not landed"})
        raise _refused(spec, stores, month, checked, found, origin=origin)
    written = writer.write(frame, origin_key=origin.key)
    record_written(Kind.LANDING, spec, stores, written, origin=origin, code=spec.code_digest)
    return written.ref


def validate(spec: ModelSpec, stores: Stores, partition: str, landed: TableRef, *, origin: Origin) -> TableRef:
    """
    Check a landed month; write the clean rows to one table and the bad ones, with reasons, to another.

    :param landed: The landed month.
    :return: Reference to the clean month.
    :raises DataRejectedError: A blocking expectation was not met; the message names it and the report. Not retried.
    """
    month = partitions.check(partition)
    # Noted before the data is read: what another try commits from now on wins over this one.
    quarantine_table = stores.tables.uri(spec.name, Table.QUARANTINE)
    quarantine_writer = stores.tables.replace_partition(quarantine_table, month)
    clean_writer = stores.tables.replace_partition(stores.tables.uri(spec.name, Table.CLEAN), month)
    frame = stores.tables.read(landed)
    expectations = validations.load_expectations(spec.expectations_path)
    checked = validations.validate(frame, expectations)
    found = _found(spec, stores, month, checked, expectations, origin=origin, data=landed.as_json())
    if checked.blocking:
        raise _refused(spec, stores, month, checked, found, origin=origin)

    clean, bad = validations.divide(frame, checked, reasons=REASONS)
    quarantine: Written | None = None
    if len(bad) or stores.tables.exists(quarantine_table):
        quarantine = quarantine_writer.write(bad, origin_key=origin.key)
    written = clean_writer.write(clean, origin_key=origin.key)
    found |= {"clean": described(written), "quarantine": described(quarantine) if quarantine else None}
    _record_validation(spec, stores, month, found, origin=origin)
    for sentence in (*checked.quarantined, *checked.warnings):
        log.warning("%s", sentence)
    return written.ref


def build_features(spec: ModelSpec, stores: Stores, partition: str, clean: TableRef, *, origin: Origin) -> TableRef:
    """
    Compute the features of a clean month; the month before it gives the history of its first hours.

    :param clean: The clean month.
    :return: Reference to the features.
    :raises NothingToDo: Another run built the very same features already.
    :raises EarlierPartitionMissingError: The month before was not ingested yet. Retried.
    :raises DataRejectedError: ``features`` did not return what is declared. Not retried.
    """
    month = partitions.check(partition)
    tables = stores.tables
    writer = tables.replace_partition(tables.uri(spec.name, Table.FEATURES), month)
    rows = tables.read(clean)
    before = TableRef(clean.table, tables.version(clean.table) or clean.version, partitions.previous(month))
    history = tables.read(before)
    sources = [clean, before] if len(history) else [clean]
    if month > spec.first_partition and not len(history):
        raise EarlierPartitionMissingError(
            f"{spec.name} has no clean rows of {before.partition} yet, and {month} begins with their history. Ingest "
            f"{before.partition} first; if the data begins with {month}, say so in first_partition of {spec.path.name}."
        )

    end = _in_zone(partitions.end(month), spec.time_zone)
    computed = feature_frames.frame_of(spec.function("features")(rows, history, end), spec.functions.features)
    features = feature_frames.checked_features(
        computed, spec, month, rows=len(rows), start=_in_zone(partitions.start(month), spec.time_zone), end=end
    )
    written = writer.write(features, origin_key=origin.key, missing_as_null=True)
    if not written.changed:
        _stop_if_announced(spec, stores, written, origin)
    record_written(Kind.FEATURES, spec, stores, written, origin=origin, sources=sources, code=spec.code_digest)
    return written.ref


def _found(
    spec: ModelSpec,
    stores: Stores,
    month: str,
    checked: Validation,
    expectations: Sequence[Expectation],
    *,
    origin: Origin,
    data: dict[str, Any],
) -> dict[str, Any]:
    """Write the report and return what the ledger keeps of a validation."""
    digest = hashlib.sha256(canonical([each.model_dump() for each in expectations]).encode()).hexdigest()
    shown = f"{data['table']}, version {data['version']}" if "table" in data else "as the source gave it; not landed"
    reviewed = load_review(spec.expectations_path)
    review = f", {reviewed or NOT_REVIEWED}" if reviewed is not None else ""
    about = {"Data": shown, "Expectations": f"{spec.expectations} ({digest[:12]}){review}"}
    report = stores.reports.write(
        origin, REPORT, validation_page(checked, model=spec.name, partition=month, about=about)
    )
    return {
        "partition": month,
        "data": data,
        "expectations": digest,
        "reviewed": reviewed.model_dump(mode="json") if reviewed else reviewed,
        "rows": checked.total,
        "quarantined": len(checked.rejected),
        "passed": not checked.blocking,
        "reasons": list(checked.blocking or checked.quarantined),
        "warnings": list(checked.warnings),
        "outcomes": [outcome.as_json() for outcome in checked.outcomes],
        "report": report,
        "origin": origin.key,
    }


def _record_validation(spec: ModelSpec, stores: Stores, month: str, found: dict[str, Any], *, origin: Origin) -> None:
    # A retry finds the same and gets the record of its first try; a run that is cleared after data or expectations
    # were mended records anew.
    about = hashlib.sha256(
        canonical([found[name] for name in ("data", "expectations", "outcomes")]).encode()
    ).hexdigest()
    stores.ledger.append(
        Kind.VALIDATION,
        spec.name,
        found,
        key=f"{origin.key}:{about}",
        actor=origin.actor,
        as_of=partitions.end(month),
    )


def _refused(
    spec: ModelSpec, stores: Stores, month: str, checked: Validation, found: dict[str, Any], *, origin: Origin
) -> DataRejectedError:
    """Record that a month is refused and return the error that says so."""
    _record_validation(spec, stores, month, found, origin=origin)
    reasons = checked.blocking
    listed = "; ".join(reasons[:_LISTED]) + (f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else "")
    return DataRejectedError(f"{spec.name} {month} is refused: {listed}. Report: {found['report']}")


def _stop_if_announced(spec: ModelSpec, stores: Stores, written: Written, origin: Origin) -> None:
    """
    Stop if another run recorded these features last: whoever follows them knows them.

    A retry of the run that wrote them goes on, so that its asset event is sent.

    :raises NothingToDo: Another run did.
    """
    records = stores.ledger.history(Kind.FEATURES, spec.name)
    last = next((each for each in reversed(records) if each.payload["partition"] == written.ref.partition), None)
    if last and last.payload["content"] == written.content and last.payload["origin"] != origin.key:
        raise NothingToDo(
            f"The features of {spec.name} {written.ref.partition} have not changed since version "
            f"{written.ref.version}, built by {last.payload['origin']}."
        )


def _in_zone(midnight: datetime, zone: str) -> datetime:
    """Move a month's first instant from UTC to the zone in which the source counts its months."""
    return midnight.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)

"""From a source to features, one month at a time. Every step can be repeated: equal content makes no new version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mlops_provider.adapters import features as feature_frames
from mlops_provider.adapters import validation as validations
from mlops_provider.core import partitions
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.steps import chunked, history, verdicts
from mlops_provider.steps.chunked import features as feature_chunks
from mlops_provider.steps.chunked import land as land_chunks
from mlops_provider.steps.chunked import validate as validate_chunks
from mlops_provider.steps.lineage import described, record_written
from mlops_provider.steps.source import calling, read_landing
from mlops_provider.steps.verdicts import REASONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_provider.core.chunks import ChunkResult
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores
    from mlops_provider.stores.tables import Written

__all__ = ["REASONS", "build_features", "land", "validate"]


def land(
    spec: ModelSpec,
    stores: Stores,
    partition: str,
    *,
    chunks: Sequence[ChunkResult] | None = None,
    origin: Origin,
) -> TableRef:
    """
    Bring a month of raw data into a versioned table.

    What breaks a blocking expectation is not let in: a wrong type in the first month would become the table's type.
    Frames that come one after the other, and the parts of a source, are written as they come and committed at once.

    :param chunks: What mapped tasks made of the source's parts; without them all is done here.
    :return: Reference to the landed month; an earlier version if the source has not changed.
    :raises SourceError: The source is missing, truncated or unreadable. Not retried.
    :raises DataRejectedError: It lacks a column, has a wrong type, or no rows. Not retried.
    :raises TransientError: The source or the store is away. Retried.
    """
    month = partitions.check(partition)
    if chunks is None and spec.functions.parts:
        chunks = chunked.here(Task.LAND_DATA, spec, stores, month, origin=origin)
    if chunks is not None:
        return land_chunks.finish(spec, stores, month, chunks, origin=origin)
    writer = stores.tables.replace_partition(stores.tables.uri(spec.name, Table.RAW), month)
    frame = read_landing(spec, stores, month)
    if not isinstance(frame, pd.DataFrame):
        (whole,) = chunked.plan(Task.LAND_DATA, spec, stores, month, origin=origin)
        streamed = land_chunks.write(spec, stores, whole, frame)
        return land_chunks.finish(spec, stores, month, [streamed], origin=origin)
    expectations = validations.load_expectations(spec.expectations_path)
    blocking = [expectation for expectation in expectations if expectation.severity == "block"]
    checked = validations.validate(frame, blocking)
    if checked.blocking:
        found = verdicts.summary(spec, stores, month, checked, blocking, origin=origin, data={"source": "not landed"})
        raise verdicts.refused(spec, stores, month, checked, found, origin=origin)
    written = writer.write(frame, origin_key=origin.key)
    record_written(Kind.LANDING, spec, stores, written, origin=origin, code=spec.code_digest)
    return written.ref


def validate(
    spec: ModelSpec,
    stores: Stores,
    partition: str,
    landed: TableRef,
    *,
    chunks: Sequence[ChunkResult] | None = None,
    origin: Origin,
) -> TableRef:
    """
    Check a landed month; write the clean rows to one table and the bad ones, with reasons, to another.

    :param landed: The landed month.
    :param chunks: What mapped tasks made of it; without them all is done here.
    :return: Reference to the clean month.
    :raises DataRejectedError: A blocking expectation was not met; the message names it and the report. Not retried.
    """
    month = partitions.check(partition)
    if chunks is None and spec.chunk_rows:
        chunks = chunked.here(Task.VALIDATE_DATA, spec, stores, month, source=landed, origin=origin)
    if chunks is not None:
        return validate_chunks.finish(spec, stores, month, landed, chunks, origin=origin)
    # Noted before the data is read: what another try commits from now on wins over this one.
    quarantine_table = stores.tables.uri(spec.name, Table.QUARANTINE)
    quarantine_writer = stores.tables.replace_partition(quarantine_table, month)
    clean_writer = stores.tables.replace_partition(stores.tables.uri(spec.name, Table.CLEAN), month)
    frame = stores.tables.read(landed)
    expectations = validations.load_expectations(spec.expectations_path)
    checked = validations.validate(frame, expectations)
    found = verdicts.summary(spec, stores, month, checked, expectations, origin=origin, data=landed.as_json())
    if checked.blocking:
        raise verdicts.refused(spec, stores, month, checked, found, origin=origin)

    clean, bad = validations.divide(frame, checked, reasons=REASONS)
    quarantine: Written | None = None
    if len(bad) or stores.tables.exists(quarantine_table):
        quarantine = quarantine_writer.write(bad, origin_key=origin.key)
    written = clean_writer.write(clean, origin_key=origin.key)
    found |= {"clean": described(written), "quarantine": described(quarantine) if quarantine else None}
    verdicts.record(spec, stores, month, found, origin=origin)
    verdicts.say(checked)
    return written.ref


def build_features(
    spec: ModelSpec,
    stores: Stores,
    partition: str,
    clean: TableRef,
    *,
    chunks: Sequence[ChunkResult] | None = None,
    origin: Origin,
) -> TableRef:
    """
    Compute the features of a clean month; the month before it gives the history of its first hours.

    :param clean: The clean month.
    :param chunks: What mapped tasks made of it; without them all is done here.
    :return: Reference to the features.
    :raises NothingToDo: Another run built the very same features already.
    :raises EarlierPartitionMissingError: The month before was not ingested yet. Retried.
    :raises DataRejectedError: ``features`` did not return what is declared, or looks further back than
        ``look_back_hours``. Not retried.
    """
    month = partitions.check(partition)
    if chunks is None and spec.chunk_rows and spec.look_back_hours:
        chunks = chunked.here(Task.BUILD_FEATURES, spec, stores, month, source=clean, origin=origin)
    if chunks is not None:
        return feature_chunks.finish(spec, stores, month, clean, chunks, origin=origin)
    tables = stores.tables
    writer = tables.replace_partition(tables.uri(spec.name, Table.FEATURES), month)
    earlier = feature_chunks.earlier_partition(spec, stores, month, clean)
    if spec.look_back_hours:
        features = feature_chunks.of_a_slice(spec, stores, month, clean, earlier)
    else:
        rows = tables.read(clean)
        known = history.gathered(spec, [tables.read(earlier) if earlier else rows.head(0)])
        start, end = feature_chunks.bounds(spec, month)
        with calling(spec, "features"):
            computed = feature_frames.frame_of(spec.function("features")(rows, known, end), spec.functions.features)
        features = feature_frames.checked_features(computed, spec, month, rows=len(rows), start=start, end=end)
    written = writer.write(features, origin_key=origin.key, missing_as_null=True)
    return feature_chunks.recorded(spec, stores, written, [clean, earlier] if earlier else [clean], origin=origin)

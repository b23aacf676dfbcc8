"""Features in chunks: slices of time, each with the hours before it that ``look_back_hours`` declares."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from itertools import chain, pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa

from mlops_provider.adapters import chunk_validation
from mlops_provider.adapters import features as feature_frames
from mlops_provider.adapters.expectations import Expectation
from mlops_provider.core import partitions
from mlops_provider.core.chunks import Chunk, ChunkResult, digest_of_results
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import (
    DataRejectedError,
    EarlierPartitionMissingError,
    NothingToDo,
    SourceError,
    SpecError,
)
from mlops_provider.steps import history
from mlops_provider.steps.chunked import common
from mlops_provider.steps.lineage import record_written
from mlops_provider.steps.source import calling
from mlops_provider.stores.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.rows import Rows
    from mlops_provider.stores.suite import Stores
    from mlops_provider.stores.tables import Written

log = logging.getLogger(__name__)

_AFTER, _BEFORE, _PROBED, _EARLIER = "after", "before", "probed", "earlier_version"
_MINUTE = 60_000_000_000
_ROWS_AT_ONCE = 1_000_000
_HISTORY_ROWS = 65_536
"""Rows of the look-back that ``functions.history`` is given at once."""
_KEPT_ROWS = 65_536
"""Rows that it may keep of them, if a chunk does not have more."""
_PROBED_ROWS = 1_000
"""Rows, the first of a slice, that are computed once more with twice the history."""


def plan(spec: ModelSpec, stores: Stores, partition: str, *, source: TableRef | None, origin: Origin) -> list[Chunk]:
    """Cut the month into slices of time that hold about as many rows each."""
    if source is None:
        raise SourceError("Which rows? Features are planned for a clean partition: pass its reference.")
    target = common.target(spec, stores, Table.FEATURES, partition, origin)
    earlier = earlier_partition(spec, stores, partition, source)
    slices = _slices(spec, partition, stores.tables.rows(source))
    chunks = []
    for index, (start, stop, after, before) in enumerate(slices):
        about = {_EARLIER: str(earlier.version)} if earlier else {}
        about |= {_AFTER: after.isoformat()} if after else {}
        about |= {_BEFORE: before.isoformat()} if before else {}
        about |= {_PROBED: "yes"} if index == len(slices) // 2 else {}
        chunks.append(Chunk(Task.BUILD_FEATURES, partition, index, start, stop, target, source, about))
    return chunks


def work(spec: ModelSpec, stores: Stores, chunk: Chunk) -> ChunkResult:
    """Compute the features of one slice of time."""
    if chunk.source is None:
        raise SourceError("Which rows? Features are planned for a clean partition: pass its reference.")
    about = {name: pd.Timestamp(chunk.about[name]) for name in (_AFTER, _BEFORE) if name in chunk.about}
    computed = of_a_slice(
        spec,
        stores,
        chunk.partition,
        chunk.source,
        _earlier(chunk),
        after=about.get(_AFTER),
        before=about.get(_BEFORE),
        probed=_PROBED in chunk.about,
    )
    staging = Staging(stores.tables, chunk.target)
    found = chunk_validation.check_chunk(computed, [_one_row_per_key(spec)], start=0)
    piece = staging.stage(computed, index=chunk.index, start=chunk.start, missing_as_null=True)
    return ChunkResult(chunk, (piece,), (common.keep(staging, found),))


def finish(
    spec: ModelSpec, stores: Stores, partition: str, clean: TableRef, chunks: Sequence[ChunkResult], *, origin: Origin
) -> TableRef:
    """Commit the slices in the order of time."""
    chunks = common.in_order(chunks)
    staging, planned = Staging(stores.tables, chunks[0].chunk.target), digest_of_results(chunks)
    pieces = [each.pieces[0] for each in chunks]

    def settle() -> TableRef:
        found = common.Kept(staging, [(each.found[0], each.chunk.start) for each in chunks])
        keys = chunk_validation.conclude([_one_row_per_key(spec)], found, staging.rows(pieces)).outcomes[0]
        if not keys.met:
            raise DataRejectedError(
                f"The features of {spec.name} {partition} are not as declared: {keys.failing or 0:,} rows repeat the "
                f"key of another ({', '.join(spec.keys)})."
            )
        written = staging.commit(pieces, origin_key=origin.key, missing_as_null=True)
        earlier = _earlier(chunks[0].chunk)
        sources = [clean, earlier] if earlier else [clean]
        return recorded(spec, stores, written, sources, origin=origin, plan=planned)

    with common.cleared(staging):
        return common.unless_done(stores, Kind.FEATURES, spec, origin, settle, plan=planned)


def earlier_partition(spec: ModelSpec, stores: Stores, partition: str, clean: TableRef) -> TableRef | None:
    """
    Name the month before, whose rows are the history of the first hours; None before the data begins.

    :raises EarlierPartitionMissingError: It was not ingested yet. Retried.
    """
    version = stores.tables.version(clean.table)
    before = TableRef(clean.table, clean.version if version is None else version, partitions.previous(partition))
    if len(stores.tables.rows(before)):
        return before
    if partition > spec.first_partition:
        raise EarlierPartitionMissingError(
            f"{spec.name} has no clean rows of {before.partition} yet, and {partition} begins with their history. "
            f"Ingest {before.partition} first; if the data begins with {partition}, say so in first_partition of "
            f"{spec.path.name}."
        )
    return None


def of_a_slice(
    spec: ModelSpec,
    stores: Stores,
    partition: str,
    clean: TableRef,
    earlier: TableRef | None,
    *,
    after: pd.Timestamp | None = None,
    before: pd.Timestamp | None = None,
    probed: bool = True,
) -> pd.DataFrame:
    """
    Compute the features of the rows in a slice of time, in the order of their event time.

    :param after: First event time of the slice; None: the month's.
    :param before: First event time after it; None: it ends with the month.
    :param probed: Compute its first rows once more with twice the history, to see whether the look-back is too short.
    :raises DataRejectedError: ``features`` did not return what is declared, or looks further back. Not retried.
    """
    start, end = bounds(spec, partition)
    rows = stores.tables.rows(clean)
    months = [*([stores.tables.rows(earlier)] if earlier else []), rows]
    if spec.event_time not in rows.columns:
        raise DataRejectedError(
            f"The clean rows of {spec.name} {partition} have no column {spec.event_time!r}, the event time in "
            f"{spec.path.name}."
        )
    frame = rows.between(spec.event_time, after, before).sort_values(spec.event_time, kind="stable", ignore_index=True)
    low = after or pd.Timestamp(start)

    def computed(part: pd.DataFrame, hours: int) -> pd.DataFrame:
        known = _history(spec, months, low, hours)
        with calling(spec, "features"):
            given = feature_frames.frame_of(spec.function("features")(part, known, end), spec.functions.features)
        return feature_frames.checked_features(given, spec, partition, rows=len(part), start=start, end=end)

    hours = look_back(spec)
    found = computed(frame, hours)
    if probed:
        first = frame.head(_PROBED_ROWS)
        _check_look_back(spec, partition, found.head(len(first)), computed(first, 2 * hours))
    return found


def recorded(
    spec: ModelSpec, stores: Stores, written: Written, sources: Sequence[TableRef], *, origin: Origin, **more: str
) -> TableRef:
    """
    Record the features of a month.

    :param more: Further fields of the record.
    :raises NothingToDo: Another run built the very same features already.
    """
    if not written.changed:
        _stop_if_announced(spec, stores, written, origin)
    record_written(Kind.FEATURES, spec, stores, written, origin=origin, sources=sources, code=spec.code_digest, **more)
    return written.ref


def bounds(spec: ModelSpec, partition: str) -> tuple[datetime, datetime]:
    """First instant of a month and the one after it, as the source's time zone counts them, in UTC."""
    zone = ZoneInfo(spec.time_zone)
    return (
        partitions.start(partition).replace(tzinfo=zone).astimezone(UTC),
        partitions.end(partition).replace(tzinfo=zone).astimezone(UTC),
    )


def look_back(spec: ModelSpec) -> int:
    """
    Hours before a row that its features may look at.

    :raises SpecError: They are not declared. Not retried.
    """
    if spec.look_back_hours is None:
        raise SpecError(f"{spec.path}: features come in chunks only with look_back_hours: how far back do they look?")
    return spec.look_back_hours


def _earlier(chunk: Chunk) -> TableRef | None:
    version = chunk.about.get(_EARLIER)
    if version is None or chunk.source is None:
        return None
    return TableRef(chunk.source.table, int(version), partitions.previous(chunk.partition))


def _history(spec: ModelSpec, months: Sequence[Rows], low: pd.Timestamp, hours: int) -> pd.DataFrame:
    """Gather what features know of the *hours* before *low*."""
    since = low - pd.Timedelta(hours=hours)
    most = max(spec.chunk_rows or 0, _KEPT_ROWS) * hours // look_back(spec)
    if spec.functions.history is None:
        known = history.gathered(spec, [each.between(spec.event_time, since, low) for each in months])
        if spec.chunk_rows and len(known) > most:
            log.warning(
                "Features of %s look back on %s rows, more than the %s of a chunk: the task's memory grows with them. "
                "Say under functions.history in %s what to keep of them.",
                *(spec.name, f"{len(known):,}", f"{most:,}", spec.path.name),
            )
        return known
    parts = (part for each in months for part in each.batches_between(spec.event_time, since, low, _HISTORY_ROWS))
    return history.gathered(spec, chain([months[-1].frame(0, 0)], parts), at_most=most if spec.chunk_rows else None)


def _check_look_back(spec: ModelSpec, partition: str, found: pd.DataFrame, again: pd.DataFrame) -> None:
    """
    Refuse features that change when they are given more history.

    :raises DataRejectedError: They do. Not retried.
    """
    differ = {
        column: int((~((found[column] == again[column]) | (found[column].isna() & again[column].isna()))).sum())
        for column in spec.feature_columns
    }
    if changed := {column: rows for column, rows in differ.items() if rows}:
        named = ", ".join(f"{column} in {rows:,}" for column, rows in list(changed.items())[:_LISTED])
        raise DataRejectedError(
            f"The features of {spec.name} {partition} look further back than look_back_hours: {look_back(spec)} in "
            f"{spec.path.name}. Of {len(found):,} rows that were computed again with twice the history these changed: "
            f"{named}. Raise it to the hours that the slowest feature needs."
        )


_LISTED = 10
"""Columns a message lists at most."""


def _one_row_per_key(spec: ModelSpec) -> Expectation:
    kind, kwargs = "expect_column_values_to_be_unique", {"column": spec.keys[0]}
    if len(spec.keys) > 1:
        kind = "expect_compound_columns_to_be_unique"
        kwargs = {"column_list": list(spec.keys), "ignore_row_if": "never"}  # type: ignore[dict-item]
    return Expectation(type=kind, kwargs=kwargs, severity="block", meaning="A key comes once")


def _slices(
    spec: ModelSpec, partition: str, rows: Rows
) -> list[tuple[int, int, pd.Timestamp | None, pd.Timestamp | None]]:
    """Cut at whole minutes: first row and the row after the last in the order of time, and the times between."""
    look_back(spec)
    start, end = bounds(spec, partition)
    kind = rows.schema.field(spec.event_time).type if spec.event_time in rows.columns else pa.null()
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        return [(0, len(rows), None, None)]  # whose check refuses it
    first = pd.Timestamp(start)
    minutes = int((pd.Timestamp(end) - first).value // _MINUTE)
    counts = np.zeros(minutes, dtype="int64")
    for frame in rows.batches(_ROWS_AT_ONCE, columns=[spec.event_time]):
        times = frame[spec.event_time].fillna(first).astype("int64").to_numpy()  # nanoseconds
        # What lies outside the month goes to the first or the last slice, whose check refuses it.
        counts += np.bincount(np.clip((times - first.value) // _MINUTE, 0, minutes - 1), minlength=minutes)
    ends = np.cumsum(counts)
    cuts = sorted({int(np.searchsorted(ends, stop)) + 1 for _, stop in common.cut(spec, len(rows))[:-1]} - {minutes})
    edges = [0, *cuts, minutes]
    found = []
    for low, high in pairwise(edges):
        before = int(ends[low - 1]) if low else 0
        found.append(
            (
                before,
                int(ends[high - 1]),
                first + pd.Timedelta(minutes=low) if low else None,
                first + pd.Timedelta(minutes=high) if high < minutes else None,
            )
        )
    return found


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

"""The prediction log where it ends: a task appends the segments of all replicas to a table, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mlops_provider.core.names import Table
from mlops_provider.exceptions import ConcurrentWriteError
from mlops_provider.stores.s3 import S3, is_s3
from mlops_provider.stores.segments import (
    Segment,
    SegmentWriter,
    ShippedSegment,
    seal_abandoned,
    sealed_segments,
    ship_abandoned,
    shipped_segments,
)

if TYPE_CHECKING:
    from mlops_provider.stores.tables import Tables

__all__ = ["Delivery", "Segment", "SegmentWriter", "deliver", "delivered_after", "sealed_segments"]

_ROWS, _SEGMENTS = "mlops.rows", "mlops.segments"
"""Metadata of a commit: what it appended."""

_OUTCOME = "outcome"
"""Field that only a line has that tells what became of a prediction."""

_ATTEMPTS = 5
_BATCH_BYTES = 32_000_000
"""Size of the segments that are appended in one commit; a table of one small file per segment would be slow to read."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    What one delivery appended: rows, and the segments they came in.

    :param outcomes: Outcomes that callers told, beside the rows.
    """

    rows: int
    segments: int
    outcomes: int = 0


def deliver(
    tables: Tables,
    uri: str,
    spool_dir: Path | str,
    s3: S3 | None = None,
    *,
    left_in: Path | None = None,
    outcomes_uri: str = "",
) -> Delivery:
    """
    Append every sealed segment to a table, each exactly once, then remove its file.

    What callers told of predictions goes to the table ``outcome_log`` beside it.

    Safe to repeat and to run twice at once: the table itself knows the last sequence of each replica. What a replica
    left open when it was killed is sealed and delivered as well.

    :param uri: The table's address.
    :param spool_dir: Folder of the model's segments as the writers know it, or the address on S3 they ship them to.
    :param s3: Access to S3, if they are there; by default with what the environment holds.
    :param left_in: Folder in which replicas that are no more may have left what they did not ship.
    :return: What was appended by this call.
    :raises StoreUnavailableError: The table can't be written; what was not delivered stays. Retried.
    :raises ConcurrentWriteError: Other deliveries kept coming in between. Retried.
    """
    waiting = _waiting(spool_dir, s3, left_in)
    told = f"{uri.rpartition('/')[0]}/{Table.OUTCOME_LOG}"
    done: list[Delivery] = []
    for attempt in range(_ATTEMPTS):
        try:
            done.extend(_delivered(tables, uri, told, batch) for batch in _batches(without_gaps(waiting)))
            break
        except (ConcurrentWriteError, FileNotFoundError):  # another delivery takes the same segments
            if attempt == _ATTEMPTS - 1:
                raise ConcurrentWriteError(f"Other deliveries from {spool_dir} kept coming in between.") from None
    rows, count, outcomes = (sum(each) for each in zip((0, 0, 0), *map(astuple, done), strict=True))
    return Delivery(rows, count, outcomes)


def delivered_after(tables: Tables, uri: str, version: int) -> tuple[Delivery, int]:
    """What was appended to the log after a version of its table, and the version that holds it."""
    commits = tables.commits_after(uri, version)
    rows, segments = (sum(int(commit.get(name, 0)) for commit in commits) for name in (_ROWS, _SEGMENTS))
    return Delivery(rows, segments), commits[-1]["version"] if commits else version


def _waiting(
    spool_dir: Path | str, s3: S3 | None, left_in: Path | None
) -> Callable[[], Sequence[Segment | ShippedSegment]]:
    """What lists the segments that wait; first, what killed replicas left open is sealed, and shipped if need be."""
    if is_s3(str(spool_dir)):
        access, address = s3 or S3(), str(spool_dir)
        if left_in is not None:
            ship_abandoned(left_in, address, access)
        return lambda: shipped_segments(address, access)
    seal_abandoned(spool_dir)
    return lambda: sealed_segments(spool_dir)


def without_gaps(
    waiting: Callable[[], Sequence[Segment | ShippedSegment]],
) -> list[Segment | ShippedSegment]:
    """
    List what waits, and nothing that comes after what a listing missed: a later number would count it as delivered.

    A listing is not of one moment, and may show a segment but not the one before, which came while it went on. That one
    was there before the later one was seen, hence a second listing shows it.
    """
    newest: dict[str, int] = {}
    for segment in waiting():
        newest[segment.replica] = max(segment.sequence, newest.get(segment.replica, 0))
    return [segment for segment in waiting() if segment.sequence <= newest.get(segment.replica, 0)] if newest else []


def _delivered(tables: Tables, uri: str, outcomes_uri: str, batch: list[Segment | ShippedSegment]) -> Delivery:
    """
    Append a batch of one replica: one commit for its predictions, and one before for what was told of some.

    Each table knows by itself what it has, so a delivery that ends between the two is completed by the next one.
    """
    replica = batch[0].replica
    last = tables.appended(uri, replica)
    read = {segment.sequence: [json.loads(line) for line in segment.read().splitlines()] for segment in batch}
    told = {number: [row for row in rows if _OUTCOME in row] for number, rows in read.items()}
    outcomes = _append_outcomes(tables, outcomes_uri, replica, told) if any(told.values()) else 0
    fresh = [segment for segment in batch if segment.sequence > last]
    rows = [row for segment in fresh for row in read[segment.sequence] if _OUTCOME not in row]
    ours = True
    if rows:
        about = {_ROWS: str(len(rows)), _SEGMENTS: str(len(fresh))}
        ours = tables.append_once(
            uri, _frame(rows), app_id=replica, sequence=fresh[-1].sequence, after=last, about=about
        )
    for segment in batch:
        segment.remove()
    return Delivery(len(rows), len(fresh), outcomes) if ours else Delivery(0, 0, outcomes)


def _append_outcomes(tables: Tables, uri: str, replica: str, told: Mapping[int, list[dict[str, Any]]]) -> int:
    """Append what a replica was told in segments that the table does not have yet."""
    last = tables.appended(uri, replica)
    rows = [row for number in sorted(told) if number > last for row in told[number]]
    if not rows:
        return 0
    newest = max(number for number, found in told.items() if found)
    frame = pd.DataFrame(rows).astype({"request_id": "string", "keys": "string", "row": "Int64", _OUTCOME: "float64"})
    for name in ("observed_at", "received_at"):
        times = pd.to_datetime(frame[name], utc=True, format="ISO8601")
        frame[name] = times.astype("datetime64[us, UTC]")
    ours = tables.append_once(uri, frame, app_id=replica, sequence=newest, after=last)
    return len(rows) if ours else 0


def _batches(segments: Iterable[Segment | ShippedSegment]) -> Iterator[list[Segment | ShippedSegment]]:
    """Segments of one replica each, in their order, as many together as fit into memory with ease."""
    for _, ordered in groupby(segments, key=lambda segment: segment.replica):
        batch: list[Segment | ShippedSegment] = []
        size = 0
        for segment in ordered:
            batch.append(segment)
            size += segment.size
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame; nested values become JSON text, so every model's log has the same columns."""
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        if frame[name].map(lambda value: isinstance(value, dict | list)).any():
            frame[name] = frame[name].map(json.dumps)
    if "answered_at" in frame:
        frame["answered_at"] = pd.to_datetime(frame["answered_at"], utc=True, format="ISO8601").astype(
            "datetime64[us, UTC]"
        )
    return frame

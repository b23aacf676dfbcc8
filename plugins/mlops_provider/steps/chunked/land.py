"""Landing in chunks: each part of the source by a task of its own, or one source as a stream of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mlops_provider.adapters import chunk_validation
from mlops_provider.adapters import validation as validations
from mlops_provider.core.chunks import PART, Chunk, ChunkResult, digest_of_results
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import SourceError
from mlops_provider.steps import verdicts
from mlops_provider.steps.chunked import common
from mlops_provider.steps.lineage import record_written
from mlops_provider.steps.source import parts_of, read_landing
from mlops_provider.stores.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlops_provider.adapters.expectations import Expectation
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

_ROWS_AT_ONCE = 262_144
"""Rows of a stream that are written at once, if ``chunk_rows`` does not say another number."""


def plan(
    spec: ModelSpec, stores: Stores, partition: str, *, source: TableRef | None = None, origin: Origin
) -> list[Chunk]:
    """Name the parts of the source; a source without parts is one."""
    target = common.target(spec, stores, Table.RAW, partition, origin)
    parts = parts_of(spec, partition)
    about = [{}] if parts is None else [{PART: part} for part in parts]
    return [
        Chunk(Task.LAND_DATA, partition, index, start=0, stop=0, target=target, source=source, about=each)
        for index, each in enumerate(about)
    ]


def work(spec: ModelSpec, stores: Stores, chunk: Chunk) -> ChunkResult:
    """Read a part of the source and write it, a number of rows at a time."""
    given = read_landing(spec, stores, chunk.partition, chunk.about.get(PART))
    return write(spec, stores, chunk, iter([given]) if isinstance(given, pd.DataFrame) else given)


def write(spec: ModelSpec, stores: Stores, chunk: Chunk, given: Iterable[pd.DataFrame]) -> ChunkResult:
    """Check and write frames as they come."""
    staging = Staging(stores.tables, chunk.target)
    blocking = _blocking(spec)
    pieces, found, position = [], [], 0
    for number, frame in enumerate(_together(given, spec.chunk_rows or _ROWS_AT_ONCE)):
        found.append(common.keep(staging, chunk_validation.check_chunk(frame, blocking, start=0)))
        start = position if chunk.index == 0 else -1
        pieces.append(staging.stage(frame, index=chunk.index, number=number, start=start))
        position += len(frame)
        del frame  # else it stays while the next one is put together
    return ChunkResult(chunk, tuple(pieces), tuple(found))


def finish(
    spec: ModelSpec, stores: Stores, partition: str, chunks: Sequence[ChunkResult], *, origin: Origin
) -> TableRef:
    """Add up what the chunks found, and commit them if nothing blocks."""
    chunks = common.in_order(chunks)
    staging = Staging(stores.tables, chunks[0].chunk.target)
    pieces = [piece for each in chunks for piece in each.pieces]
    planned = digest_of_results(chunks)
    if not pieces:
        raise SourceError(f"{spec.functions.land} gave no frame at all for {spec.name} {partition}.")

    def settle() -> TableRef:
        starts, position = [], 0
        for piece in pieces:
            starts.append(position)
            position += piece.rows
        paths = [path for each in chunks for path in each.found]
        blocking = _blocking(spec)
        findings = common.Kept(staging, list(zip(paths, starts, strict=True)))
        checked = chunk_validation.conclude(blocking, findings, staging.rows(pieces))
        if checked.blocking:
            data = {"source": "not landed"}
            said = verdicts.summary(spec, stores, partition, checked, blocking, origin=origin, data=data)
            raise verdicts.refused(spec, stores, partition, checked, said, origin=origin)
        written = staging.commit(pieces, origin_key=origin.key)
        record_written(Kind.LANDING, spec, stores, written, origin=origin, code=spec.code_digest, plan=planned)
        return written.ref

    with common.cleared(staging):
        return common.unless_done(stores, Kind.LANDING, spec, origin, settle, plan=planned)


def _blocking(spec: ModelSpec) -> list[Expectation]:
    return [each for each in validations.load_expectations(spec.expectations_path) if each.severity == "block"]


def _together(frames: Iterable[pd.DataFrame], rows: int) -> Iterator[pd.DataFrame]:
    """Put small frames together, and cut large ones, until each has *rows* rows; the last has what is left."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        while sum(map(len, waiting)) > rows:
            whole = _taken(waiting)
            rest = whole.iloc[rows:]
            waiting.append(rest.copy() if len(rest) < rows else rest)  # a view keeps all of the whole
            yield whole.iloc[:rows]
            del whole, rest
    if waiting:
        yield _taken(waiting)


def _taken(waiting: list[pd.DataFrame]) -> pd.DataFrame:
    """Make one frame of those that wait, and let go of them."""
    whole = pd.concat(waiting, ignore_index=True) if len(waiting) > 1 else waiting[0]
    waiting.clear()
    return whole

"""Validation in chunks: each is checked and written without the rows that break something by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_provider.adapters import chunk_validation
from mlops_provider.adapters import validation as validations
from mlops_provider.core.chunks import Chunk, ChunkResult, Piece, digest_of_results
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import SourceError
from mlops_provider.steps import verdicts
from mlops_provider.steps.chunked import common
from mlops_provider.steps.lineage import described
from mlops_provider.stores.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlops_provider.adapters.expectations import Validation
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.rows import Rows
    from mlops_provider.stores.suite import Stores
    from mlops_provider.stores.tables import Written

_QUARANTINE_SEQUENCE = "quarantine_sequence"


def plan(spec: ModelSpec, stores: Stores, partition: str, *, source: TableRef | None, origin: Origin) -> list[Chunk]:
    """Cut the landed rows."""
    if source is None:
        raise SourceError("Which rows? A validation is planned for a landed partition: pass its reference.")
    quarantine = common.target(spec, stores, Table.QUARANTINE, partition, origin)
    target = common.target(spec, stores, Table.CLEAN, partition, origin)
    return [
        Chunk(
            step=Task.VALIDATE_DATA,
            partition=partition,
            index=index,
            start=start,
            stop=stop,
            target=target,
            source=source,
            about={_QUARANTINE_SEQUENCE: str(quarantine.sequence)},
        )
        for index, (start, stop) in enumerate(common.cut(spec, len(stores.tables.rows(source))))
    ]


def work(spec: ModelSpec, stores: Stores, chunk: Chunk) -> ChunkResult:
    """Check the rows one by one; write those that pass, and those that don't beside them."""
    staging = Staging(stores.tables, chunk.target)
    frame = _landed(stores, chunk).frame(chunk.start, chunk.stop)
    expectations = validations.load_expectations(spec.expectations_path)
    found = chunk_validation.check_chunk(frame, expectations, start=chunk.start)
    broken = np.isin(np.arange(len(frame)), chunk_validation.set_apart(found, expectations))
    clean = staging.stage(frame[~broken], index=chunk.index, start=chunk.start)
    bad = staging.stage(frame[broken], index=chunk.index, number=1, as_it_is=True)
    return ChunkResult(chunk, (clean, bad), (common.keep(staging, found),))


def finish(
    spec: ModelSpec, stores: Stores, partition: str, landed: TableRef, chunks: Sequence[ChunkResult], *, origin: Origin
) -> TableRef:
    """Add up what the chunks found, decide, and commit the clean rows and the bad ones."""
    chunks = common.in_order(chunks)
    target, planned = chunks[0].chunk.target, digest_of_results(chunks)
    table = stores.tables.uri(spec.name, Table.QUARANTINE)
    places = _Places(
        clean=Staging(stores.tables, target),
        quarantine=Staging(
            stores.tables, common.beside(target, table, int(chunks[0].chunk.about[_QUARANTINE_SEQUENCE]))
        ),
    )

    def settle() -> TableRef:
        rows = stores.tables.rows(landed)
        expectations = validations.load_expectations(spec.expectations_path)
        findings = common.Kept(places.clean, [(each.found[0], each.chunk.start) for each in chunks])
        checked = chunk_validation.conclude(expectations, findings, rows)
        said = verdicts.summary(spec, stores, partition, checked, expectations, origin=origin, data=landed.as_json())
        if checked.blocking:
            raise verdicts.refused(spec, stores, partition, checked, said, origin=origin)
        alone = (chunk_validation.set_apart(found, expectations) for found in findings)
        divided = [_divided(places, each, rows, checked, known) for each, known in zip(chunks, alone, strict=True)]
        quarantine: Written | None = None
        if len(checked.rejected) or stores.tables.exists(table):
            bad = [piece for _, piece in divided if piece]
            quarantine = places.quarantine.commit(bad, origin_key=origin.key)
        written = places.clean.commit(_some([piece for piece, _ in divided]), origin_key=origin.key)
        said |= {"clean": described(written), "quarantine": described(quarantine) if quarantine else None}
        said[common.PLAN] = planned
        verdicts.record(spec, stores, partition, said, origin=origin)
        verdicts.say(checked)
        return written.ref

    with common.cleared(places.clean, places.quarantine):
        return common.unless_done(
            stores,
            Kind.VALIDATION,
            spec,
            origin,
            settle,
            lambda record: TableRef.from_json(record["clean"]),
            plan=planned,
        )


@dataclass(frozen=True, slots=True)
class _Places:
    clean: Staging
    quarantine: Staging


def _divided(
    places: _Places, done: ChunkResult, rows: Rows, checked: Validation, alone: NDArray[np.int64]
) -> tuple[Piece, Piece | None]:
    """
    Give a chunk's clean rows, and its bad ones with their reasons if there are any.

    The clean rows are written again if some of them are bad only beside others.

    :param alone: Positions in the chunk of the rows that are bad by themselves.
    """
    chunk, (clean, bad) = done.chunk, done.pieces
    first, last = np.searchsorted(checked.rejected, [chunk.start, chunk.stop])
    rejected = checked.rejected[first:last]
    if len(rejected) == len(alone):
        apart = places.clean.rows([bad]).frame() if len(rejected) else None
    else:
        frame = rows.frame(chunk.start, chunk.stop)
        out = np.isin(np.arange(len(frame)), rejected - chunk.start)
        clean, apart = places.clean.stage(frame[~out], index=chunk.index, start=chunk.start), frame[out]
    if apart is None:
        return clean, None
    apart = apart.assign(**{verdicts.REASONS: checked.reasons(rejected)})
    return clean, places.quarantine.stage(apart, index=chunk.index)


def _some(pieces: list[Piece]) -> list[Piece]:
    """The pieces that hold rows; the first if none does, for its columns."""
    return [piece for piece in pieces if piece.rows] or pieces[:1]


def _landed(stores: Stores, chunk: Chunk) -> Rows:
    if chunk.source is None:
        raise SourceError("Which rows? A validation is planned for a landed partition: pass its reference.")
    return stores.tables.rows(chunk.source)

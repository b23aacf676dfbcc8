"""A partition in chunks: what mapped tasks are given, and the small references they give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlops_provider.core.evidence import digest_of
from mlops_provider.core.payload import Payload
from mlops_provider.core.references import TableRef

BLOCK_ROWS = 8_192
"""Rows of the blocks that a content hash is made of; another number would give every content another hash."""
PART, SIDE = "part", "side"
"""What a step may want known about a chunk: the part of the source it reads, the side of a comparison it belongs to."""


@dataclass(frozen=True, slots=True)
class Target(Payload):
    """
    Where the chunks of one run put their files: beside those of the table, seen by nobody until they are committed.

    :param table: Full URI of the table.
    :param partition: Month that is replaced.
    :param sequence: Times the month had been replaced when the run began.
    :param run: Short name of the run that replaces it, part of the folder's name.
    """

    table: str
    partition: str
    sequence: int
    run: str


@dataclass(frozen=True, slots=True)
class Chunk(Payload):
    """
    One mapped task's share of a step.

    :param step: Task ID of the step.
    :param index: Number of the chunk, from 0.
    :param start: Its first row.
    :param stop: The row after its last.
    :param source: Table the rows are read from; None if they come from the use case's source.
    :param about: What else the step wants known, as texts.
    """

    step: str
    partition: str
    index: int
    start: int
    stop: int
    target: Target
    source: TableRef | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def covers(self) -> str:
        """What it is a share of, for a person: ``rows 1 to 8,192``, or the name of a part of the source."""
        if part := self.about.get(PART):
            return part
        rows = f"rows {self.start + 1:,} to {self.stop:,}" if self.stop else "all rows"
        side = f"{self.about[SIDE]} {self.source.partition}, " if SIDE in self.about and self.source else ""
        return side + rows


@dataclass(frozen=True, slots=True)
class Piece(Payload):
    """
    A data file that waits to be committed.

    :param path: Where it lies, relative to the table.
    :param size: Bytes.
    :param start: Row of the partition that its first row was thought to be; -1 if nobody knew.
    :param sha256: Of its bytes, hex; equal rows give equal bytes.
    """

    path: str
    rows: int
    size: int
    start: int = -1
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ChunkResult(Payload):
    """
    What a mapped task hands back.

    :param chunk: The share it was given.
    :param pieces: Files it wrote, in an order that the step knows.
    :param found: Files with what else it found, relative to the table.
    """

    chunk: Chunk
    pieces: tuple[Piece, ...] = ()
    found: tuple[str, ...] = ()


def digest_of_results(chunks: Sequence[ChunkResult]) -> str:
    """SHA-256 over what the chunks read and wrote, hex; the same if another plan read and wrote the same."""
    return digest_of(
        [
            {
                "source": each.chunk.source.as_json() if each.chunk.source else None,
                "rows": [each.chunk.start, each.chunk.stop],
                "pieces": [[piece.rows, piece.sha256] for piece in each.pieces],
            }
            for each in chunks
        ]
    )


def ranges(rows: int, chunk_rows: int) -> list[tuple[int, int]]:
    """
    Cut *rows* into stretches of *chunk_rows*, rounded up to whole blocks; no rows are one empty stretch.

    :return: First row and the row after the last, of each.
    """
    step = -(-chunk_rows // BLOCK_ROWS) * BLOCK_ROWS
    return [(first, min(first + step, rows)) for first in range(0, max(rows, 1), step)]

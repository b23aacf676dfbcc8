"""Chunks of a partition, as a person reads them."""

from __future__ import annotations

import pytest

from mlops_provider.core.chunks import PART, SIDE, Chunk, Target
from mlops_provider.core.references import TableRef


@pytest.mark.parametrize(
    ("start", "stop", "about", "covers"),
    [
        (8192, 16_384, {}, "rows 8,193 to 16,384"),
        (0, 0, {}, "all rows"),
        (0, 0, {PART: "2013-01-31.parquet"}, "2013-01-31.parquet"),
        (0, 8192, {SIDE: "reference"}, "reference 2013-01, rows 1 to 8,192"),
    ],
)
def test_a_chunk_says_what_it_covers(start: int, stop: int, about: dict[str, str], covers: str) -> None:
    source = TableRef("tables/features", 3, "2013-01")
    chunk = Chunk("step", "2013-02", 1, start, stop, Target("tables/features", "2013-02", 0, "run"), source, about)

    assert chunk.covers == covers
    assert Chunk.from_json(chunk.as_json()).covers == covers

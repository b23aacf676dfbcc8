"""The rows that a month's drift is measured on: sampled chunk by chunk, the same sample as from all rows at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd

from mlops_provider.adapters import scoring
from mlops_provider.adapters.sampling import bottom_k
from mlops_provider.core.chunks import SIDE, Chunk, ChunkResult
from mlops_provider.core.names import Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError, SourceError
from mlops_provider.steps.chunked import common
from mlops_provider.steps.provenance import Provenance, provenance
from mlops_provider.stores.staging import Staging

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

Side = Literal["reference", "current", "predictions", "gate"]
_VERSION = "version"
_ROWS_AT_ONCE = 1_000_000


def plan(
    spec: ModelSpec, stores: Stores, partition: str, *, source: TableRef | None = None, origin: Origin
) -> list[Chunk]:
    """
    Cut all that is sampled: what the version was trained on, the month, its predictions, and the month of the gate.

    A month that no model served is one chunk with nothing in it.

    :raises DataRejectedError: The month has no features. Not retried.
    """
    target = common.target(spec, stores, Table.PREDICTIONS, partition, origin)
    served = _newest(spec, stores, Table.PREDICTIONS, partition)
    if served is None:
        return [Chunk(Task.DETECT_DRIFT, partition, 0, 0, 0, target)]
    features = source or _newest(spec, stores, Table.FEATURES, partition)
    if features is None:
        raise DataRejectedError(f"{spec.name!r} has no features of {partition}: run its ingest DAG first.")
    version = serving_version(stores, served)
    made = provenance(stores.ledger, spec.name, version)
    sides: list[tuple[Side, TableRef]] = [("current", features), ("predictions", served)]
    sides += [("reference", _of(made.features, month)) for month in made.trained_on]
    sides += [("gate", _of(made.features, made.gated_on))]
    chunks: list[Chunk] = []
    for side, table in sides:
        about = {SIDE: side, _VERSION: version}
        chunks += [
            Chunk(Task.DETECT_DRIFT, partition, len(chunks) + index, start, stop, target, table, about)
            for index, (start, stop) in enumerate(common.cut(spec, len(stores.tables.rows(table))))
        ]
    return chunks


def work(spec: ModelSpec, stores: Stores, chunk: Chunk) -> ChunkResult:
    """Write the sample of one chunk."""
    if chunk.source is None:
        return ChunkResult(chunk)
    staging = Staging(stores.tables, chunk.target)
    return ChunkResult(chunk, (staging.stage(_sample(spec, stores, chunk), index=chunk.index, as_it_is=True),))


def tables(planned: Sequence[Chunk]) -> dict[str, TableRef]:
    """Table that each side is read from, one of them if it is several months; none if no model served the month."""
    return {chunk.about[SIDE]: chunk.source for chunk in planned if chunk.source is not None}


def samples(
    spec: ModelSpec, stores: Stores, planned: Sequence[Chunk], chunks: Sequence[ChunkResult] | None
) -> dict[str, pd.DataFrame]:
    """
    Put the samples together, at most ``sample_rows`` of each side; none if no model served the month.

    :param chunks: What mapped tasks sampled; without them all is read here.
    """
    if chunks is None:
        given = [(chunk, _sample(spec, stores, chunk)) for chunk in planned if chunk.source is not None]
    else:
        staging = Staging(stores.tables, chunks[0].chunk.target)
        given = [(each.chunk, staging.rows(each.pieces).frame()) for each in common.in_order(chunks) if each.pieces]
    parts: dict[str, list[pd.DataFrame]] = {}
    for chunk, frame in given:
        parts.setdefault(chunk.about[SIDE], []).append(frame)
    return {side: _bottom(spec, pd.concat(part, ignore_index=True)) for side, part in parts.items()}


def clear(stores: Stores, chunks: Sequence[ChunkResult]) -> None:
    """Remove the samples that chunks wrote."""
    Staging(stores.tables, chunks[0].chunk.target).discard()


def serving_version(stores: Stores, served: TableRef) -> str:
    """The version that most of a month's predictions are from."""
    counts: Counter[str] = Counter()
    for frame in stores.tables.rows(served).batches(_ROWS_AT_ONCE, columns=[scoring.VERSION]):
        counts.update(str(version) for version in frame[scoring.VERSION])
    return min(counts, key=lambda version: (-counts[version], version))


def _sample(spec: ModelSpec, stores: Stores, chunk: Chunk) -> pd.DataFrame:
    if chunk.source is None:
        raise SourceError("Which rows? A chunk of a sample names the table it is read from.")
    made = provenance(stores.ledger, spec.name, chunk.about[_VERSION])
    columns = dict.fromkeys([*spec.keys, *_columns(spec, made, chunk.about[SIDE])])
    return _bottom(spec, stores.tables.rows(chunk.source).frame(chunk.start, chunk.stop, columns=list(columns)))


def _bottom(spec: ModelSpec, frame: pd.DataFrame) -> pd.DataFrame:
    return bottom_k(frame, spec.keys, spec.monitoring.sample_rows, seed=spec.seed)


def _columns(spec: ModelSpec, made: Provenance, side: str) -> Sequence[str]:
    if side == "predictions":
        return [scoring.PREDICTION]
    return made.columns if side == "gate" else [column for column in spec.feature_columns if column in made.columns]


def _of(table: TableRef, month: str) -> TableRef:
    return TableRef(table.table, table.version, month)


def _newest(spec: ModelSpec, stores: Stores, table: Table, month: str) -> TableRef | None:
    uri = stores.tables.uri(spec.name, table)
    version = stores.tables.version(uri)
    return None if version is None or month not in stores.tables.partitions(uri) else TableRef(uri, version, month)

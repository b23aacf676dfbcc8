"""Predictions in chunks: stretches of rows, all by the version that the plan names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_provider.core.chunks import Chunk, ChunkResult, digest_of_results
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import SourceError
from mlops_provider.steps import predict
from mlops_provider.steps.chunked import common
from mlops_provider.steps.lineage import record_written
from mlops_provider.stores.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

_VERSION, _SCORED_BY = "version", "scored_by"


def plan(
    spec: ModelSpec, stores: Stores, partition: str, *, source: TableRef | None = None, origin: Origin
) -> list[Chunk]:
    """Choose the version, then cut the rows."""
    version = predict.version_for(spec, stores, partition)
    target = common.target(spec, stores, Table.PREDICTIONS, partition, origin)
    source = source or predict.newest_features(stores, spec.name, partition)
    rows = len(stores.tables.rows(source))
    if not rows:
        raise predict.no_features(spec.name, partition)
    about = {_VERSION: version, _SCORED_BY: common.of_the_step(origin, Task.SCORE_BATCH).key}
    return [
        Chunk(Task.SCORE_BATCH, partition, index, start, stop, target, source, about)
        for index, (start, stop) in enumerate(common.cut(spec, rows))
    ]


def work(spec: ModelSpec, stores: Stores, chunk: Chunk) -> ChunkResult:
    """Predict a stretch of rows."""
    rows = stores.tables.rows(_source(chunk))
    predicted = predict.predictions(
        spec,
        stores,
        chunk.about[_VERSION],
        rows,
        start=chunk.start,
        stop=chunk.stop,
        scored_by=chunk.about[_SCORED_BY],
    )
    piece = Staging(stores.tables, chunk.target).stage(
        predicted, index=chunk.index, start=chunk.start, missing_as_null=True
    )
    return ChunkResult(chunk, (piece,))


def finish(spec: ModelSpec, stores: Stores, chunks: Sequence[ChunkResult], *, origin: Origin) -> TableRef:
    """Commit the predictions of all chunks."""
    chunks = common.in_order(chunks)
    first = chunks[0].chunk
    staging, planned = Staging(stores.tables, first.target), digest_of_results(chunks)

    def settle() -> TableRef:
        written = staging.commit([each.pieces[0] for each in chunks], origin_key=origin.key, missing_as_null=True)
        record_written(
            Kind.PREDICTIONS,
            spec,
            stores,
            written,
            origin=origin,
            sources=[_source(first)],
            model_version=first.about[_VERSION],
            plan=planned,
        )
        return written.ref

    with common.cleared(staging):
        return common.unless_done(stores, Kind.PREDICTIONS, spec, origin, settle, plan=planned)


def _source(chunk: Chunk) -> TableRef:
    if chunk.source is None:
        raise SourceError("Which rows? A chunk of predictions names the features it is made from.")
    return chunk.source

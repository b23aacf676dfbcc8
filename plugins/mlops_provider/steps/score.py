"""Predictions for a whole month with the version in service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops_provider.core import partitions
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.steps import chunked, predict
from mlops_provider.steps.chunked import score as score_chunks
from mlops_provider.steps.lineage import record_written

if TYPE_CHECKING:
    from mlops_provider.core.chunks import ChunkResult
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


def score(
    spec: ModelSpec,
    stores: Stores,
    partition: str,
    features: TableRef | None = None,
    *,
    chunks: Sequence[ChunkResult] | None = None,
    origin: Origin,
) -> TableRef:
    """
    Predict every row of a month with the version that has most of the traffic; rows without a label too.

    Repeating it replaces the month's predictions.

    :param features: The features; by default the newest of that month.
    :param chunks: What mapped tasks made of them; without them all is done here.
    :return: Reference to the predictions.
    :raises NothingToDo: No version was ever put in service, or it was trained on this very month.
    :raises SourceError: There are no features of that month. Not retried.
    """
    month = partitions.check(partition)
    if chunks is None and spec.chunk_rows:
        chunks = chunked.here(Task.SCORE_BATCH, spec, stores, month, source=features, origin=origin)
    if chunks is not None:
        return score_chunks.finish(spec, stores, chunks, origin=origin)
    version = predict.version_for(spec, stores, month)
    writer = stores.tables.replace_partition(stores.tables.uri(spec.name, Table.PREDICTIONS), month)
    features = features or predict.newest_features(stores, spec.name, month)
    rows = stores.tables.rows(features)
    if not len(rows):
        raise predict.no_features(spec.name, month)
    predicted = predict.predictions(spec, stores, version, rows, scored_by=origin.key)
    # A version without segments says nothing about who answered, though one before it did.
    written = writer.write(predicted, origin_key=origin.key, missing_as_null=True)
    record_written(Kind.PREDICTIONS, spec, stores, written, origin=origin, sources=[features], model_version=version)
    return written.ref

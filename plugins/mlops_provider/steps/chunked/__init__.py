"""
Steps over chunks of a partition: a plan, a share of the work for each mapped task, and one task that commits it all.

What comes out is what the step makes in one piece: the same rows in the same order, hence the same content hash.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core import partitions
from mlops_provider.core.chunks import Chunk, ChunkResult
from mlops_provider.core.names import Task
from mlops_provider.core.references import TableRef
from mlops_provider.stores import tables  # noqa: F401 - a worker that lacks its libraries is told before anything else

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

_MODULES = {
    Task.LAND_DATA: "land",
    Task.VALIDATE_DATA: "validate",
    Task.BUILD_FEATURES: "features",
    Task.SCORE_BATCH: "score",
    Task.DETECT_DRIFT: "drift",
}


def plan(
    step: Task, spec: ModelSpec, stores: Stores, partition: str, *, source: TableRef | None = None, origin: Origin
) -> list[Chunk]:
    """
    Cut a partition into chunks of about ``chunk_rows`` rows; there is at least one.

    :param source: Table the step reads; None where it finds that out itself.
    :raises MLOpsError: What the step would raise before it does any work.
    """
    chunks: list[Chunk] = _module(step).plan(spec, stores, partitions.check(partition), source=source, origin=origin)
    return chunks


def work(spec: ModelSpec, stores: Stores, chunk: Chunk) -> ChunkResult:
    """Do one chunk's share of its step. What it writes is seen by nobody until the step commits."""
    result: ChunkResult = _module(Task(chunk.step)).work(spec, stores, chunk)
    return result


def here(
    step: Task, spec: ModelSpec, stores: Stores, partition: str, *, source: TableRef | None = None, origin: Origin
) -> Sequence[ChunkResult]:
    """Plan, and do all chunks one after the other in this process."""
    return [work(spec, stores, chunk) for chunk in plan(step, spec, stores, partition, source=source, origin=origin)]


def _module(step: Task) -> Any:
    return importlib.import_module(f"{__name__}.{_MODULES[step]}")

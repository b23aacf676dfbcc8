"""A partition larger than declared, worked on side by side by mapped tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf

from mlops_provider.core.names import Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import SpecError
from mlops_provider.operators.base import ModelStepOperator, PartitionStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class PlanChunksOperator(PartitionStepOperator):
    """
    Cut a partition into the chunks that the mapped tasks of a step work on.

    A partition of at most ``chunk_rows`` rows is one chunk. Skipped if the step has nothing to do.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param of: Task ID of the step: ``land_data``, ``validate_data``, ``build_features``, ``score_batch`` or
        ``detect_drift``.
    :param source: Reference to the rows, for a step that is given some. (templated)
    :return: The chunks, for ``RunChunkOperator.partial(...).expand(chunk=...)``.
    :raises SpecError: There would be more chunks than Airflow maps a task over. Not retried.
    """

    extras = ("tables", "validation", "training")
    template_fields: Sequence[str] = (*PartitionStepOperator.template_fields, "source")

    def __init__(self, *, of: str, source: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.of = of
        self.source = source

    def step(self, context: Context, origin: Origin) -> list[dict[str, Any]]:
        from mlops_provider.steps import chunked

        source = None if self.source is None else TableRef.from_json(self.source)
        chunks = chunked.plan(Task(self.of), self.spec, self.stores, self.partition, source=source, origin=origin)
        longest = conf.getint("core", "max_map_length", fallback=1024)
        if len(chunks) > longest:
            raise SpecError(
                f"{self.of} of {self.partition} would be {len(chunks):,} chunks, and Airflow maps a task over at most "
                f"{longest:,}: raise chunk_rows in {self.spec.path}, or [core] max_map_length."
            )
        self.log.info("%s of %s in %d chunks", self.of, self.partition, len(chunks))
        return [chunk.as_json() for chunk in chunks]


class RunChunkOperator(ModelStepOperator):
    """
    Do the work of a step on one chunk; what it writes shows when the step itself commits.

    Safe to retry: files of tries that died are cleared away with the commit.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param chunk: The chunk, one of those that ``PlanChunksOperator`` gave. (templated)
    :return: References to the files it wrote.
    :raises StoreUnavailableError: The tables can't be read or written. Retried.
    """

    extras = ("tables", "validation", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "chunk")

    def __init__(self, *, chunk: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chunk = chunk

    @property
    def covers(self) -> str:
        """What its chunk is a share of: the name of the mapped task in Airflow's pages."""
        from mlops_provider.core.chunks import Chunk

        return Chunk.from_json(self.chunk).covers

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.core.chunks import Chunk
        from mlops_provider.steps import chunked

        return chunked.work(self.spec, self.stores, Chunk.from_json(self.chunk)).as_json()

"""Predictions for a whole partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.operators.base import PartitionStepOperator, results

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class ScoreBatchOperator(PartitionStepOperator):
    """
    Predict every row of a partition with the version that has the traffic.

    Skipped while there is no such version. Repeating it replaces the partition's predictions.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param chunks: What mapped tasks predicted; by default all is done here. (templated)
    :return: Reference to the predictions of the partition.
    :raises StoreUnavailableError: Tables, registry or ledger don't answer. Retried.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*PartitionStepOperator.template_fields, "chunks")

    def __init__(self, *, chunks: Sequence[Mapping[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chunks = chunks

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import score

        chunks = results(self.chunks)
        return score.score(self.spec, self.stores, self.partition, chunks=chunks, origin=origin).as_json()

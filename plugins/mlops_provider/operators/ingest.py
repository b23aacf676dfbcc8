"""From a source to features, one partition at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core.references import TableRef
from mlops_provider.links import ReportLink
from mlops_provider.operators.base import PartitionStepOperator, results

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class LandDataOperator(PartitionStepOperator):
    """
    Bring a partition of raw data into a versioned table.

    Safe to retry and to repeat: the same bytes make no new version.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param chunks: What mapped tasks made of the source's parts; by default all is done here. (templated)
    :return: Reference to the landed partition.
    :raises SourceError: The source is missing, truncated or unreadable. Not retried.
    :raises StoreUnavailableError: The tables can't be written. Retried.
    """

    extras = ("tables", "validation")
    template_fields: Sequence[str] = (*PartitionStepOperator.template_fields, "chunks")
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, chunks: Sequence[Mapping[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chunks = chunks

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import ingest

        landed = ingest.land(self.spec, self.stores, self.partition, chunks=results(self.chunks), origin=origin)
        self.log.info("Landed %s as version %s of %s", landed.partition, landed.version, landed.table)
        return landed.as_json()


class ValidateDataOperator(PartitionStepOperator):
    """
    Check a landed partition against the expectations; bad rows are quarantined with their reasons.

    The task links to the rendered report.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param landed: Reference to the landed partition. (templated)
    :param chunks: What mapped tasks made of it; by default all is done here. (templated)
    :return: Reference to the clean partition.
    :raises DataRejectedError: An expectation that blocks was not met. Not retried.
    """

    extras = ("tables", "validation")
    template_fields: Sequence[str] = (*PartitionStepOperator.template_fields, "landed", "chunks")
    operator_extra_links = (ReportLink(),)

    def __init__(
        self, *, landed: Mapping[str, Any], chunks: Sequence[Mapping[str, Any]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.landed = landed
        self.chunks = chunks

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import ingest

        landed = TableRef.from_json(self.landed)
        chunks = results(self.chunks)
        return ingest.validate(self.spec, self.stores, self.partition, landed, chunks=chunks, origin=origin).as_json()


class BuildFeaturesOperator(PartitionStepOperator):
    """
    Compute the features of a clean partition into a versioned table.

    The event of each asset in ``outlets`` carries the table and its version. Skipped, without an
    event, when an earlier run already built the very same features.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param clean: Reference to the clean partition. (templated)
    :param chunks: What mapped tasks made of it; by default all is done here. (templated)
    :return: Reference to the features of the partition.
    """

    extras = ("tables", "validation")
    template_fields: Sequence[str] = (*PartitionStepOperator.template_fields, "clean", "chunks")

    def __init__(
        self, *, clean: Mapping[str, Any], chunks: Sequence[Mapping[str, Any]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.clean = clean
        self.chunks = chunks

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import ingest

        clean = TableRef.from_json(self.clean)
        chunks = results(self.chunks)
        features = ingest.build_features(
            self.spec, self.stores, self.partition, clean, chunks=chunks, origin=origin
        ).as_json()
        self.announce(context, model=self.spec.name, run_id=origin.run_id, **features)
        return features

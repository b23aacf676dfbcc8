"""What happened to the predictions, and whether to train again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.links import ReportLink
from mlops_provider.operators.base import Callbacks, ModelStepOperator, PartitionStepOperator, results, tell

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class DeliverPredictionsOperator(ModelStepOperator):
    """
    Append the server's sealed prediction segments to the prediction log, each exactly once.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param spool_dir: Folder the replicas write segments to, or address on S3 they ship them to; by default
        ``MLOPS_SPOOL_URI``, else ``MLOPS_SPOOL_DIR``. (templated)
    :return: Rows and segments delivered, and outcomes that callers told, if there were any.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "spool_dir")

    def __init__(self, *, spool_dir: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spool_dir = spool_dir

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import monitor

        return monitor.deliver_predictions(self.spec, self.stores, spool_dir=self.spool_dir, origin=origin)


class RecordOutcomesOperator(PartitionStepOperator):
    """
    Record the labels that are known for a partition.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :return: Reference to the outcomes of the partition.
    """

    extras = ("tables", "training")

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import monitor

        return monitor.record_outcomes(self.spec, self.stores, self.partition, origin=origin).as_json()


class MeasurePerformanceOperator(PartitionStepOperator):
    """
    Compare a partition's predictions with its outcomes, overall and by slice, with intervals.

    Earlier partitions are measured again if callers told the server outcomes of theirs since.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :return: Ledger ID of the performance record.
    """

    extras = ("tables", "training")

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import monitor

        record = monitor.measure_performance(self.spec, self.stores, self.partition, origin=origin)
        found = self.stores.ledger.get(record).payload
        self.log.info("%s", found.get("reason") or f"Version {found['version']}: {found['metrics']}")
        return record


class DetectDriftOperator(PartitionStepOperator):
    """
    Compare a partition's features with those the serving version was trained on.

    The task links to the Evidently report; a snapshot also goes to an Evidently workspace.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param workspace: Folder of the Evidently workspace; by default ``MLOPS_EVIDENTLY_WORKSPACE``. (templated)
    :param chunks: What mapped tasks sampled; by default the samples are taken here. (templated)
    :param on_alarm_callback: Whom to tell of a drift alarm: notifiers, or functions of the context, which holds
        ``mlops`` with ``model``, ``partition`` and ``summary``. A retry may tell it again.
    :return: Ledger ID of the drift record.
    """

    extras = ("tables", "training", "drift")
    template_fields: Sequence[str] = (*PartitionStepOperator.template_fields, "workspace", "chunks")
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        workspace: str | None = None,
        chunks: Sequence[Mapping[str, Any]] | None = None,
        on_alarm_callback: Callbacks = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workspace = workspace
        self.chunks = chunks
        self.on_alarm_callback = on_alarm_callback

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import monitor

        record = monitor.detect_drift(
            self.spec,
            self.stores,
            self.partition,
            workspace=self.workspace,
            chunks=results(self.chunks),
            origin=origin,
        )
        found = self.stores.ledger.get(record).payload
        for sentence in (*found["reasons"], *found["warnings"]):
            self.log.info("%s", sentence)
        self.log.info("Drift alarm." if found["alarm"] else "No drift alarm.")
        if found["alarm"]:
            tell(self, context, self.on_alarm_callback, partition=self.partition, summary=" ".join(found["reasons"]))
        return record


class DecideRetrainOperator(PartitionStepOperator):
    """
    Decide whether to train again, and say why; skip what follows if not.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param performance: Ledger ID of the partition's performance record. (templated)
    :param drift: Ledger ID of the partition's drift record. (templated)
    :param on_retrain_callback: Whom to tell that it is trained again; as ``on_alarm_callback`` of the drift operator.
    :return: The decision: ``retrain``, ``trigger``, ``reasons``, ``through`` and ``cause``, the training's run ID.
    """

    extras = ("tables", "training")
    template_fields: Sequence[str] = (*PartitionStepOperator.template_fields, "performance", "drift")

    def __init__(self, *, performance: str, drift: str, on_retrain_callback: Callbacks = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.performance = performance
        self.drift = drift
        self.on_retrain_callback = on_retrain_callback

    def step(self, context: Context, origin: Origin) -> Mapping[str, Any]:
        from mlops_provider.steps import monitor

        decision = monitor.decide_retrain(
            self.spec, self.stores, self.partition, performance=self.performance, drift=self.drift, origin=origin
        )
        self.log.info("%s: %s", "Retrain" if decision["retrain"] else "Keep", " ".join(decision["reasons"]))
        if not decision["retrain"]:
            self.stop_here(context, decision)
        reasons = " ".join(decision["reasons"])
        tell(self, context, self.on_retrain_callback, partition=self.partition, summary=f"Retrain: {reasons}")
        return decision

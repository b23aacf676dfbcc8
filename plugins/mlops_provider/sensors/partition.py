"""Wait until the labels of a partition are due and its data has landed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from mlops_provider.core import names, partitions
from mlops_provider.operators.base import PartitionStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class LabelsSensor(PartitionStepOperator):
    """
    Wait, deferred, until a partition's labels are due and its data is there.

    Its data are its predictions if a version was in service then, else its features. Started by the
    calendar, not by the data, so a month whose data never arrives is noticed.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param poll_interval: Seconds between looks.
    :param wait_timeout: Longest wait for the data once the labels are due, in seconds; then the task fails and
        says what is missing. Not retried.
    """

    extras = ("tables",)

    def __init__(self, *, poll_interval: float = 30.0, wait_timeout: float = 86_400.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if poll_interval <= 0:
            raise ValueError(f"poll_interval is {poll_interval}; it must be above 0 seconds.")
        self.poll_interval = poll_interval
        self.wait_timeout = wait_timeout

    def step(self, context: Context, origin: Origin) -> None:
        from mlops_provider.steps.traffic import was_in_service

        key = partitions.check(self.partition)
        due = self.spec.labels_known_at(key)
        served = was_in_service(self.stores.ledger, self.spec.name, key)
        table = self.stores.tables.uri(self.spec.name, names.Table.PREDICTIONS if served else names.Table.FEATURES)
        if datetime.now(UTC) >= due and key in self.stores.tables.partitions(table):
            self.log.info("Labels of %s were due on %s and %s is there.", key, due.date(), table)
            return
        from mlops_provider.triggers.partition import PartitionTrigger

        self.log.info("Waiting for the labels of %s, due on %s, and for %s.", key, due.date(), table)
        give_up_at = max(due, datetime.now(UTC)) + timedelta(seconds=self.wait_timeout)
        self.defer(
            trigger=PartitionTrigger(
                table, key, due.isoformat(), give_up_at.isoformat(), self.poll_interval, self.tables_conn_id
            ),
            method_name=self.execute_complete.__name__,
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> None:
        """Called on resume: go on, or say what never came."""
        if not event["landed"]:
            raise AirflowFailException(
                f"Nothing of {event['partition']} arrived in {event['table']} within {self.wait_timeout:.0f} seconds "
                "after its labels were due. Look at that month's runs of ingest and score, then clear this task."
            )
        self.log.info("Partition %s is there.", event["partition"])

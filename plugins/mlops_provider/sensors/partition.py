"""Wait until the labels of a partition are due and its data has landed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_provider.core import names, partitions
from mlops_provider.operators.base import PartitionStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin


class LabelsSensor(PartitionStepOperator):
    """
    Wait, deferred, until a partition's labels are due and its features exist.

    Started by the calendar, not by the data, so a month whose data never arrives is noticed: the
    task fails with a sentence when *wait_timeout* is over.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    :param poll_interval: Seconds between looks.
    :param wait_timeout: Longest wait for the data once the labels are due, in seconds.
    """

    def __init__(self, *, poll_interval: float = 30.0, wait_timeout: float = 86_400.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if poll_interval <= 0:
            raise ValueError(f"poll_interval is {poll_interval}; it must be above 0 seconds.")
        self.poll_interval = poll_interval
        self.wait_timeout = wait_timeout

    def step(self, context: Context, origin: Origin) -> None:
        key = partitions.check(self.partition)
        due = self.spec.labels_known_at(key)
        table = self.stores.tables.uri(self.spec.name, names.Table.FEATURES)
        if datetime.now(UTC) >= due and key in self.stores.tables.partitions(table):
            self.log.info("Labels of %s were due on %s and its features exist.", key, due.date())
            return
        from mlops_provider.triggers.partition import PartitionTrigger

        self.log.info("Waiting for the labels of %s, due on %s, and for its features.", key, due.date())
        self.defer(
            trigger=PartitionTrigger(table, key, due.isoformat(), self.poll_interval),
            method_name=self.execute_complete.__name__,
            timeout=max(due - datetime.now(UTC), timedelta()) + timedelta(seconds=self.wait_timeout),
        )

    def execute_complete(self, context: Context, event: Mapping[str, str]) -> None:
        """Called on resume: the trigger fires only when all is there."""
        self.log.info("Partition %s is there.", event["partition"])

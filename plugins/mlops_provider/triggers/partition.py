"""Wait for a partition of a table without holding a worker slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class PartitionTrigger(BaseTrigger):
    """
    Fire when a partition exists and a moment has passed.

    :param table: URI of the table.
    :param partition: Partition key.
    :param not_before: Moment in ISO 8601, UTC, before which it does not fire.
    :param poll_interval: Seconds between looks.
    """

    def __init__(self, table: str, partition: str, not_before: str, poll_interval: float = 30.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.partition = partition
        self.not_before = not_before
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name the class and its arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "table": self.table,
                "partition": self.partition,
                "not_before": self.not_before,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event, once the partition is there."""
        remaining = (datetime.fromisoformat(self.not_before) - datetime.now(UTC)).total_seconds()
        if remaining > 0:
            await asyncio.sleep(remaining)
        while not await asyncio.to_thread(self.landed):  # noqa: ASYNC110 - nobody in this process could set an event
            await asyncio.sleep(self.poll_interval)
        yield TriggerEvent({"table": self.table, "partition": self.partition})

    def landed(self) -> bool:
        """Look once, blocking."""
        from mlops_provider.stores.tables import Tables

        root, _, _ = self.table.rpartition("/")
        return self.partition in Tables(root).partitions(self.table)

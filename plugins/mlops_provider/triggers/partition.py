"""Wait for a partition of a table without holding a worker slot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from mlops_provider.core import names
from mlops_provider.core.extras import explained_imports
from mlops_provider.exceptions import TransientError
from mlops_provider.hooks.tables import TablesHook

log = logging.getLogger(__name__)


class PartitionTrigger(BaseTrigger):
    """
    Fire when a partition exists and a moment has passed, or when it was waited for long enough.

    Its event holds ``table``, ``partition`` and ``landed``, which is False if the wait was given up.

    :param table: URI of the table.
    :param partition: Partition key.
    :param not_before: Moment in ISO 8601, UTC, before which it does not fire.
    :param give_up_at: Moment in ISO 8601, UTC, at which it fires without the partition.
    :param poll_interval: Seconds between looks.
    :param tables_conn_id: Connection of the tables, for the credentials of a table on S3; asked for at each look.
    """

    def __init__(
        self,
        table: str,
        partition: str,
        not_before: str,
        give_up_at: str,
        poll_interval: float = 30.0,
        tables_conn_id: str = names.TABLES_CONN,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = table
        self.partition = partition
        self.not_before = not_before
        self.give_up_at = give_up_at
        self.poll_interval = poll_interval
        self.tables_conn_id = tables_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Name the class and its arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "table": self.table,
                "partition": self.partition,
                "not_before": self.not_before,
                "give_up_at": self.give_up_at,
                "poll_interval": self.poll_interval,
                "tables_conn_id": self.tables_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event, once the partition is there or it is too late."""
        remaining = (datetime.fromisoformat(self.not_before) - datetime.now(UTC)).total_seconds()
        if remaining > 0:
            await asyncio.sleep(remaining)
        give_up_at = datetime.fromisoformat(self.give_up_at)
        landed = await asyncio.to_thread(self.landed)
        while not landed and datetime.now(UTC) < give_up_at:
            await asyncio.sleep(self.poll_interval)
            landed = await asyncio.to_thread(self.landed)
        yield TriggerEvent({"table": self.table, "partition": self.partition, "landed": landed})

    def landed(self) -> bool:
        """Look once, blocking; a store that does not answer now is asked again later."""
        with explained_imports("tables"):
            from mlops_provider.stores.tables import Tables

        root, _, _ = self.table.rpartition("/")
        try:
            return self.partition in Tables(root, TablesHook(self.tables_conn_id).s3).partitions(self.table)
        except TransientError as error:
            log.warning("Asked again later: %s", error)
            return False

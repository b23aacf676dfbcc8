"""What others deliver, read through Airflow connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from mlops_provider.exceptions import ConfigurationError
from mlops_provider.hooks import aws
from mlops_provider.stores.sources import Sources, as_frame  # noqa: TID253 - nothing imports this before a source is read

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.stores.s3 import S3


class ConnectedSources(Sources):
    """S3 by a connection of type ``aws``, HTTP by one with a login, SQL by any that has a ``DbApiHook``."""

    def s3(self, conn_id: str) -> S3:
        """Access to S3 through the connection, else with what the worker's environment holds."""
        return aws.s3(conn_id) if conn_id else super().s3(conn_id)

    def login(self, conn_id: str) -> tuple[str, str] | None:
        """Login and password of the connection."""
        connection = _connection(conn_id)
        return (connection.login, connection.password or "") if connection.login else None

    def query(self, sql: str, conn_id: str) -> pd.DataFrame:
        """
        Read the rows of a query through the connection's own hook.

        :raises ConfigurationError: There is no such connection, or it is none of a database. Not retried.
        """
        connection = _connection(conn_id)
        hook = connection.get_hook()
        if not callable(getattr(hook, "run", None)):
            raise ConfigurationError(
                f"Connection {conn_id!r} is of type {connection.conn_type!r}, which has no DbApiHook: a query needs a "
                "connection of a database."
            )

        def rows(cursor: Any) -> pd.DataFrame:
            return as_frame([str(column[0]) for column in cursor.description], [tuple(row) for row in cursor])

        frame: pd.DataFrame = hook.run(sql, handler=rows)
        return frame


def _connection(conn_id: str) -> Any:
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as missing:
        raise ConfigurationError(
            f"Airflow has no connection {conn_id!r}, which model.yaml names as a source. Create it under Admin > "
            "Connections."
        ) from missing

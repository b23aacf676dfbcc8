"""
The database behind MLflow, row by row.

Records of the ledger name runs and versions by MLflow's own IDs, which its REST API gives anew to whatever is created:
so a backup that keeps them copies the rows. The rows fit any database that MLflow's own migrations have made.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from mlflow import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError
from mlops_provider.stores import mlflow_access

_ALEMBIC = "alembic_version"
_NOT_COPIED = frozenset((_ALEMBIC, "job_locks", "scheduler_leases"))
"""What a server holds only while it runs, and the version of the schema, which is compared instead."""
_LOCATIONS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns that say where files are."""
_BATCH = 500


def dumped(url: str) -> Iterator[dict[str, Any]]:
    """
    Give every row, as one moment had them: first ``{"schema": …}``, then ``{"table": …, "row": …}``.

    :raises StoreUnavailableError: The database is away. Retried.
    """
    with _reading(url) as connection:
        tables = _tables(connection)
        yield {"schema": _schema_version(connection)}
        for table in tables:
            for row in connection.execution_options(yield_per=_BATCH).execute(sa.select(table)).mappings():
                yield {"table": table.name, "row": {name: _encoded(value) for name, value in row.items()}}


def locations(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where the experiments among dumped rows keep their files."""
    return [each["row"]["artifact_location"] for each in rows if each.get("table") == "experiments"]


def is_empty(url: str) -> bool:
    """
    Whether MLflow holds nothing yet; its tables are made if they are not there.

    :raises StoreUnavailableError: The database is away. Retried.
    """
    with mlflow_access.explained(url):
        mlflow_access.check(url)
        experiments = MlflowClient(url, url).search_experiments(view_type=3)
    with _reading(url) as connection:
        tables = {table.name: table for table in _tables(connection)}
        used = any(
            connection.execute(sa.select(sa.literal(1)).select_from(tables[name]).limit(1)).first()
            for name in ("runs", "registered_models")
        )
    return not used and {experiment.name for experiment in experiments} <= {"Default"}


def restore(url: str, rows: Iterable[Mapping[str, Any]], moved: Callable[[str], str]) -> int:
    """
    Fill an empty database with dumped rows, all or none.

    :param moved: Gives the new address of files for the one that was recorded.
    :return: How many rows there are now.
    :raises ConfigurationError: MLflow's schema is another one than when they were dumped. Not retried.
    :raises StoreUnavailableError: The database is away. Retried.
    """
    rows = iter(rows)
    schema, count = next(rows)["schema"], 0
    engine = _engine(url)
    try:
        with _explained(url), engine.begin() as connection:
            found = _schema_version(connection)
            if found != schema:
                raise ConfigurationError(
                    f"MLflow's database at {mlflow_access.shown(url)} has schema {found}, the backup {schema}: restore "
                    "with the version of MLflow that it was made with, then run `mlflow db upgrade`."
                )
            tables = _tables(connection)
            for table in reversed(tables):  # what MLflow's own migrations put there
                connection.execute(sa.delete(table))
            by_name = {table.name: table for table in tables}
            for each in rows:
                table = by_name[each["table"]]
                values = {name: _decoded(value, table.c[name]) for name, value in each["row"].items()}
                for name in _LOCATIONS.get(table.name, ()):
                    if values.get(name):
                        values[name] = moved(values[name])
                connection.execute(sa.insert(table).values(values))
                count += 1
            if connection.dialect.name == "postgresql":
                _advance_sequences(connection, tables)
    finally:
        engine.dispose()
    return count


def _tables(connection: sa.Connection) -> list[sa.Table]:
    """MLflow's tables, those that others refer to first."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name not in _NOT_COPIED]


def _schema_version(connection: sa.Connection) -> str:
    return str(connection.exec_driver_sql(f"SELECT version_num FROM {_ALEMBIC}").scalar())  # noqa: S608 - our own name


def _advance_sequences(connection: sa.Connection, tables: list[sa.Table]) -> None:
    """Let Postgres count on from the numbers that were inserted."""
    for table in tables:
        for column in table.primary_key:
            name = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name)))
            if name:
                highest = connection.scalar(sa.select(sa.func.max(column)))
                connection.execute(sa.select(sa.func.setval(name, (highest or 0) + 1, False)))


@contextmanager
def _reading(url: str) -> Iterator[sa.Connection]:
    """A connection that sees one moment, whatever others write meanwhile."""
    engine = _engine(url)
    try:
        with _explained(url), engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901 - the same
            else:
                connection.exec_driver_sql("BEGIN")
            yield connection
    finally:
        engine.dispose()


def _engine(url: str) -> sa.Engine:
    if not url.startswith(("sqlite", "postgresql")):
        raise ConfigurationError(
            f"Expected sqlite:/// or postgresql:// for MLflow's database, got {mlflow_access.shown(url)!r}."
        )
    return sa.create_engine(url)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        said = (str(getattr(error, "orig", None) or error).strip().splitlines() or ["no reason given"])[0]
        raise StoreUnavailableError(
            f"MLflow's database at {mlflow_access.shown(url)} cannot be used: {said}."
        ) from error


def _encoded(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    return value.isoformat() if isinstance(value, date) else value


def _decoded(value: Any, column: sa.Column[Any]) -> Any:
    if value is None:
        return sa.null()
    if isinstance(column.type, sa.LargeBinary):
        return base64.b64decode(value["base64"])
    if isinstance(column.type, sa.DateTime):
        return datetime.fromisoformat(value)
    return date.fromisoformat(value) if isinstance(column.type, sa.Date) else value

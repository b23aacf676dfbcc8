"""Read a table that somebody else wrote, by the Airflow connection that the DAG names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from mlops_provider.core.references import AnyTable, FileTable, SqlTable
from mlops_provider.exceptions import ConfigurationError, SourceError, StoreUnavailableError
from mlops_provider.hooks import aws

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from mlops_provider.stores.files import Rows

_AT_ONCE = 10_000
"""Rows fetched from a database at a time."""


def read(table: AnyTable, columns: Sequence[str] | None, *, lenient: bool = False) -> Rows:
    """
    Read columns of a table; see :class:`mlops_provider.stores.files.Reader`.

    :raises ConfigurationError: The connection is missing, of a wrong type or refused. Not retried.
    """
    if isinstance(table, SqlTable):
        return _read_sql(table, columns, lenient=lenient)
    if isinstance(table, FileTable):
        return _read_files(table, columns, lenient=lenient)
    if isinstance(table, str):
        return _read_files(FileTable(table), columns, lenient=lenient)
    raise ConfigurationError(
        f"A table is a FileTable, a SqlTable, or the path or URI of files, got {type(table).__name__}."
    )


def _read_files(table: FileTable, columns: Sequence[str] | None, *, lenient: bool) -> Rows:
    from mlops_provider.stores import files
    from mlops_provider.stores.s3 import is_s3

    return files.read(table, columns, lenient=lenient, s3=aws.s3(table.conn_id) if is_s3(table.uri) else None)


def _read_sql(table: SqlTable, columns: Sequence[str] | None, *, lenient: bool) -> Rows:
    import pyarrow as pa

    from mlops_provider.stores import files

    renamed, what = dict(table.columns or {}), f"The query on {table.conn_id!r}"
    names, fetched = _fetched(_sql_hook(table.conn_id), table, columns, renamed, what, lenient=lenient)
    try:
        content = pa.table({name: _array(values) for name, values in zip(names, fetched, strict=True)})
    except pa.ArrowException as error:
        raise SourceError(
            f"{what}: a column mixes types or has one that is no number, text or time: {error}"
        ) from error
    return files.rows(content, {"connection": table.conn_id, "query": table.query}, columns, renamed, what)


def _array(values: list[Any]) -> Any:
    """A column as Arrow; exact decimals become numbers that arithmetic is done with."""
    from decimal import Decimal

    import pyarrow as pa

    if any(isinstance(value, Decimal) for value in values):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, from_pandas=True)


def _sql_hook(conn_id: str) -> DbApiHook:
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as missing:
        raise ConfigurationError(
            f"Airflow has no connection {conn_id!r}. Create it under Admin > Connections, or name another one in the "
            "table's conn_id."
        ) from missing
    try:
        hook = connection.get_hook()
    except (AirflowException, ImportError) as error:
        raise ConfigurationError(
            f"Connection {conn_id!r} is of the type {connection.conn_type!r}, which no installed provider knows. "
            f"Install the provider of that database ({error})."
        ) from error
    if not isinstance(hook, DbApiHook):
        raise ConfigurationError(
            f"Connection {conn_id!r} is of the type {connection.conn_type!r}, which speaks no SQL through Airflow's "
            "DbApiHook."
        )
    return hook


def _fetched(
    hook: DbApiHook,
    table: SqlTable,
    columns: Sequence[str] | None,
    renamed: Mapping[str, str],
    what: str,
    *,
    lenient: bool,
) -> tuple[list[str], list[list[Any]]]:
    """Names and values of the columns asked for; of what the query gives beside them nothing is kept."""
    from mlops_provider.stores import files

    with _explained(what), closing(hook.get_conn()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(table.query)
        if cursor.description is None:
            raise SourceError(f"{what} gives no rows: it is no SELECT.")
        there = [str(column[0]) for column in cursor.description]
        if lenient and columns is not None:
            columns = [name for name in columns if renamed.get(name, name) in there]
        names = files.chosen(there, columns, renamed, what)
        positions = [there.index(name) for name in names]
        values: list[list[Any]] = [[] for _ in names]
        while batch := cursor.fetchmany(_AT_ONCE):
            for kept, position in zip(values, positions, strict=True):
                kept.extend(row[position] for row in batch)
    return names, values


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say in words what a database answered."""
    try:
        yield
    except Exception as error:
        # Drivers name their errors as PEP 249 does, and share no base class.
        named = {base.__name__ for base in type(error).__mro__}
        said = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        if named & {"OperationalError", "InterfaceError"}:
            raise StoreUnavailableError(
                f"{what} failed: {said}. Check the query, the connection and the database."
            ) from error
        if named & {"DatabaseError"}:
            raise SourceError(f"{what} is refused: {said}. Run it by hand, and mend it in the DAG.") from error
        raise

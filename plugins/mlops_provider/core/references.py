"""What tasks hand each other instead of data, and how a DAG names a table that this suite did not write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mlops_provider.core.payload import Payload


@dataclass(frozen=True, slots=True)
class TableRef(Payload):
    """
    One version of a table, or of one of its partitions.

    :param table: Full URI of the table.
    :param version: Table version, from 0.
    :param partition: Month the reference is about; None for the whole table.
    """

    table: str
    version: int
    partition: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRef(Payload):
    """One version of a registered model."""

    model: str
    version: str


class FileTable(NamedTuple):
    """
    Somebody's table in files: one Parquet file, a folder of them, or a Delta table.

    A named tuple, because that is what Airflow renders field by field: each text may be a template.

    :param uri: Path, ``file://`` or ``s3://`` address.
    :param conn_id: Airflow connection of the type ``aws``, used for ``s3://`` only.
    :param columns: Where the table calls a column otherwise: the operator's name for it, and the table's.
    :param version: Version of a Delta table; by default the newest.
    """

    uri: str
    conn_id: str = "aws_default"
    columns: Mapping[str, str] | None = None
    version: int | None = None


class SqlTable(NamedTuple):
    """
    Somebody's table behind any Airflow connection that speaks SQL.

    :param query: Query that gives at least the columns needed; it runs as it is. Each text may be a template.
    :param conn_id: Airflow connection whose hook is a ``DbApiHook``.
    :param columns: Where the query calls a column otherwise: the operator's name for it, and the query's.
    """

    query: str
    conn_id: str
    columns: Mapping[str, str] | None = None


AnyTable = FileTable | SqlTable | str
"""A table as a DAG may name it; a text is the URI of a :class:`FileTable`."""

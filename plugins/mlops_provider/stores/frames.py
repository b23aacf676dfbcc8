"""Frames on their way into a table: types that Delta can hold, one schema per table, one hash per content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import pyarrow as pa

from mlops_provider.core.names import PARTITION
from mlops_provider.exceptions import DataRejectedError

_NAMED = 10
"""Columns a message names; the rest are counted."""


def fitted(
    frame: pd.DataFrame,
    schema: pa.Schema | None,
    *,
    where: str,
    partition: str | None = None,
    missing_as_null: bool = False,
) -> pa.Table:
    """
    Convert *frame* to what the table holds: its columns in its order and types, new columns last.

    Whole numbers and fractions may stand for each other as long as no value changes; a column with no value at all
    takes the table's type. Text never becomes a number.

    :param frame: Rows to write; the index is dropped.
    :param schema: Schema of the table; None if it has none yet.
    :param where: The table, for messages.
    :param partition: Value of the ``partition`` column; None leaves the frame's own.
    :param missing_as_null: Fill columns that the frame lacks, instead of refusing it.
    :raises DataRejectedError: Columns are missing, doubled, of another type, or of no type. Not retried.
    """
    doubled = frame.columns[frame.columns.duplicated()].map(str)
    if len(doubled):
        raise DataRejectedError(f"{where}: these columns come more than once: {named(sorted(set(doubled)))}.")
    columns = {str(name): _storable(frame[name], str(name), where) for name in frame.columns}
    if partition is not None:
        columns[PARTITION] = pa.array([partition] * len(frame), pa.string())
    if schema is None:
        return pa.table({name: _typed(column) for name, column in columns.items()})
    missing = [name for name in schema.names if name not in columns]
    if missing and not missing_as_null:
        raise _lacking(missing, where)
    table = {field.name: _as_field(columns.pop(field.name, None), field, len(frame), where) for field in schema}
    return pa.table(table | {name: _typed(column) for name, column in columns.items()})


def fitted_table(rows: pa.Table, schema: pa.Schema, *, where: str, missing_as_null: bool) -> pa.Table:
    """
    Convert stored *rows* to other columns: :func:`fitted` for what is an Arrow table already.

    :raises DataRejectedError: Columns are missing or of another type. Not retried.
    """
    missing = [name for name in schema.names if name not in rows.column_names]
    if missing and not missing_as_null:
        raise _lacking(missing, where)
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    return pa.table({each.name: _as_field(columns.get(each.name), each, len(rows), where) for each in schema})


def united(schemas: Sequence[pa.Schema], *, where: str) -> pa.Schema:
    """
    Columns that hold the rows of all *schemas*: those of the first, then what the others add.

    A column without a type takes that of the others, or is text if none has one. Whole numbers become fractions where
    others have some.

    :raises DataRejectedError: A column has types that don't go together. Not retried.
    """
    found: dict[str, pa.DataType] = {}
    for schema in schemas:
        for each in schema:
            found[each.name] = _united(found.get(each.name, pa.null()), each, where)
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in found.items()])


def without_partition(schema: pa.Schema) -> pa.Schema:
    """The columns of a file: the partition is part of its address."""
    return pa.schema([(each.name, each.type) for each in schema if each.name != PARTITION])


def with_partition(schema: pa.Schema) -> pa.Schema:
    """The columns of a table whose files have those of *schema*."""
    return pa.schema([*schema, (PARTITION, pa.string())])


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Convert what was read to pandas; times come back in nanoseconds, pandas' own unit."""
    frame: pd.DataFrame = table.to_pandas(coerce_temporal_nanoseconds=True)
    return frame


def named(columns: Iterable[str]) -> str:
    """Write column names for a message: at most ten, the rest counted."""
    names = [repr(name) for name in columns]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _storable(column: pd.Series, name: str, where: str) -> pa.Array:
    """Convert one column, then exchange the types that Delta has no word for."""
    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise DataRejectedError(
            f"{where}: column {name!r} ({column.dtype}) mixes types or has one that a table cannot hold. "
            "Give it one type in `land` or `features`."
        ) from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_timestamp(kind):
        # Delta keeps microseconds; nanoseconds would need a table feature that its own reader refuses.
        return array.cast(pa.timestamp("us", "UTC" if kind.tz else None), safe=False)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_unsigned_integer(kind):
        return array.cast(pa.int64())
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    return array


def _lacking(missing: Sequence[str], where: str) -> DataRejectedError:
    return DataRejectedError(
        f"{where}: the rows lack {named(missing)}, which earlier partitions have. "
        "Mend the source, or write the rows to a new table if the change is meant."
    )


def _united(one: pa.DataType, other: pa.Field, where: str) -> pa.DataType:
    if pa.types.is_null(one) or one == other.type:
        return other.type
    if pa.types.is_null(other.type):
        return one
    if _is_number(one) and _is_number(other.type):
        return pa.float64() if pa.types.is_floating(one) or pa.types.is_floating(other.type) else pa.int64()
    raise DataRejectedError(
        f"{where}: column {other.name!r} is {one} in some chunks and {other.type} in others. "
        "Mend the source, or give the column one type in `land` or `features`."
    )


def _typed(column: pa.Array) -> pa.Array:
    """A column without any value has no type of its own: text, until the table says otherwise."""
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _as_field(column: pa.Array | None, field: pa.Field, rows: int, where: str) -> pa.Array:
    if column is None:
        return pa.nulls(rows, field.type)
    if column.type == field.type:
        return column
    if pa.types.is_null(column.type) or column.null_count == len(column):
        return pa.nulls(rows, field.type)
    if _is_number(column.type) and _is_number(field.type):
        try:
            return column.cast(field.type)
        except pa.ArrowInvalid as error:
            raise DataRejectedError(
                f"{where}: column {field.name!r} has values that {field.type}, its type in earlier partitions, "
                "cannot hold. Mend the source, or give the column one type from the first partition on."
            ) from error
    raise DataRejectedError(
        f"{where}: column {field.name!r} is {column.type} here and {field.type} in earlier partitions. "
        "Mend the source, or give the column one type in `land` or `features`."
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))

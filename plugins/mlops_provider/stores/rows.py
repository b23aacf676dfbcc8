"""Rows of one partition, in their order, read a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.dataset import ParquetFileFragment

from mlops_provider.exceptions import SourceError
from mlops_provider.stores import frames

_AT_ONCE = 131_072
"""Rows decoded at once when a whole column is read."""
_BUFFER = 1 << 18
"""Bytes read ahead of each column."""


class Rows:
    """
    The rows of Parquet files, one after the other.

    A stretch has the pandas types that the whole has: an integer column with a null somewhere is ``float64``
    everywhere.

    :param schema: Columns of the table; a file that lacks one has nulls there.
    :param files: The files in the order of their rows.
    :param uri: The table, for messages.
    """

    def __init__(self, schema: pa.Schema, files: Sequence[ParquetFileFragment], *, uri: str) -> None:
        self.schema = schema
        self.files = files
        self.uri = uri

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.files else 0

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    def frame(self, start: int = 0, stop: int | None = None, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the rows from *start* to before *stop*; all by default."""
        return self._as_frame(self.table(start, stop, columns=columns))

    def table(self, start: int = 0, stop: int | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows from *start* to before *stop* as an Arrow table."""
        names = self._known(columns)
        stop = len(self) if stop is None else min(stop, len(self))
        found = [part for _, part in self._groups(start, stop, names)]
        return pa.concat_tables([self._empty(names), *found])

    def batches(self, rows: int, *, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
        """Read all rows, about *rows* at a time."""
        for start in range(0, len(self), rows):
            yield self.frame(start, start + rows, columns=columns)

    def blocks(
        self, rows: int, *, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """
        Read the rows from *start* to before *stop* as Arrow tables, decoded as they are asked for.

        :param rows: Rows of a table, at most.
        """
        names = self._known(columns)
        stop = len(self) if stop is None else min(stop, len(self))
        first = 0
        for file in self.files:
            wanted, position = [], first
            for group in file.row_groups:
                if first < stop and start < first + group.num_rows:
                    wanted.append(group.id)
                elif not wanted:
                    position += group.num_rows
                first += group.num_rows
            for table in self._decoded(file, wanted, names, rows):
                low, high = max(start - position, 0), min(stop - position, len(table))
                position += len(table)
                if low < high:
                    yield table.slice(low, high - low)

    def take(self, positions: NDArray[np.int64], *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the rows at *positions*, which rise."""
        names, found = self._known(columns), []
        for start, stop in _stretches(positions, _AT_ONCE):
            for first, part in self._groups(start, stop, names):
                low, high = np.searchsorted(positions, [first, first + len(part)])
                found.append(part.take(pa.array(positions[low:high] - first)))
        return self._as_frame(pa.concat_tables([self._empty(names), *found]))

    def between(
        self, column: str, low: pd.Timestamp | None, high: pd.Timestamp | None, *, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """
        Read the rows whose *column* is at or after *low* and before *high*; row groups without any are not decoded.

        :param low: None: no limit, and rows without a value belong to it as well.
        :param high: None: no limit.
        """
        names = self._known(columns)
        found = self._between(column, low, high, names, _AT_ONCE)
        return self._as_frame(pa.concat_tables([self._empty(names), *found]))

    def batches_between(
        self, column: str, low: pd.Timestamp | None, high: pd.Timestamp | None, rows: int
    ) -> Iterator[pd.DataFrame]:
        """Read the same rows as :meth:`between`, at most *rows* at a time, however large the row groups are."""
        for table in self._between(column, low, high, self.columns, rows):
            yield self._as_frame(table)

    def values(self, column: str) -> pd.Series[Any]:
        """Read one whole column without a second copy of it; equal texts share one object."""
        kind = self._as_frame(self._empty([column]))[column].dtype
        found = np.empty(len(self), dtype=kind if isinstance(kind, np.dtype) else "datetime64[ns]")
        texts: dict[str, str] = {}
        for first, part in self._groups(0, len(self), [column]):
            series = self._as_frame(part)[column]
            if isinstance(kind, pd.DatetimeTZDtype):
                found[first : first + len(part)] = pd.DatetimeIndex(series).tz_convert(None).to_numpy()
            elif kind == np.dtype(object):
                found[first : first + len(part)] = [
                    texts.setdefault(value, value) if isinstance(value, str) else value for value in series
                ]
            else:
                found[first : first + len(part)] = series.to_numpy()
        if isinstance(kind, pd.DatetimeTZDtype):
            return pd.Series(pd.DatetimeIndex(found, tz="UTC"), name=column, copy=False)
        return pd.Series(found, name=column, copy=False)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([file.metadata.num_rows for file in self.files], dtype="int64")

    @cached_property
    def _with_nulls(self) -> frozenset[str]:
        """Columns that have a null somewhere, or may have one."""
        full = set(self.schema.names)
        for file in self.files:
            if file.metadata.num_rows:
                full &= _without_nulls(file)
        return frozenset(self.schema.names) - full

    def _known(self, columns: Sequence[str] | None) -> list[str]:
        names = self.columns if columns is None else list(columns)
        if unknown := [name for name in names if name not in self.schema.names]:
            raise SourceError(f"{self.uri} has no column {frames.named(unknown)}.")
        return names

    def _empty(self, names: Sequence[str]) -> pa.Table:
        return self.schema.empty_table().select(list(names))

    def _groups(self, start: int, stop: int, names: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the parts of row groups that lie in the stretch, each with the row it begins at."""
        first = 0
        for file in self.files:
            for group in file.row_groups:
                last = first + group.num_rows
                if first < stop and start < last:
                    part = file.subset(row_group_ids=[group.id]).to_table(
                        schema=self.schema, columns=names, use_threads=False
                    )
                    low, high = max(start, first), min(stop, last)
                    yield low, part.slice(low - first, high - low)
                first = last

    def _between(
        self, column: str, low: pd.Timestamp | None, high: pd.Timestamp | None, names: list[str], rows: int
    ) -> Iterator[pa.Table]:
        wanted, kind = pc.scalar(True), self.schema.field(column).type
        if low is not None:
            wanted &= pc.field(column) >= pa.scalar(low, kind)
        if high is not None:
            wanted &= pc.field(column) < pa.scalar(high, kind)
        if low is None and high is not None:
            wanted |= pc.field(column).is_null()
        for file in self.files:
            groups = [group.id for each in file.split_by_row_group(wanted, self.schema) for group in each.row_groups]
            for table in self._decoded(file, groups, list(dict.fromkeys([*names, column])), rows):
                if len(found := table.filter(wanted).select(names)):
                    yield found

    def _decoded(
        self, file: ParquetFileFragment, groups: Sequence[int], names: Sequence[str], rows: int
    ) -> Iterator[pa.Table]:
        """Decode row groups of a file as they are asked for, at most *rows* rows at a time."""
        if not groups:
            return
        # Not through the dataset, which decodes far ahead: memory would grow with the row group.
        with pq.ParquetFile(file.open(), metadata=file.metadata, buffer_size=_BUFFER, pre_buffer=False) as read:
            there = [name for name in names if name in read.schema_arrow.names]
            for batch in read.iter_batches(rows, row_groups=groups, columns=there, use_threads=False):
                yield self._of_batch(batch, names)

    def _of_batch(self, batch: pa.RecordBatch, names: Sequence[str]) -> pa.Table:
        """What a file holds as the table has it: a column that it lacks is null."""
        kinds = {name: self.schema.field(name).type for name in names}
        return pa.table(
            {
                name: batch.column(name).cast(kind) if name in batch.schema.names else pa.nulls(len(batch), kind)
                for name, kind in kinds.items()
            }
        )

    def _as_frame(self, table: pa.Table) -> pd.DataFrame:
        frame = frames.as_frame(table)
        for name, field in zip(table.column_names, table.schema, strict=True):
            if name in self._with_nulls and pa.types.is_integer(field.type):
                frame[name] = frame[name].astype("float64")
            elif name in self._with_nulls and pa.types.is_boolean(field.type):
                frame[name] = frame[name].astype("object")
        return frame


def _without_nulls(file: ParquetFileFragment) -> set[str]:
    """Columns of which the file's own statistics say that no row group has a null."""
    full: set[str] = set(file.physical_schema.names)
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            known = column.is_stats_set and column.statistics.has_null_count
            if not known or column.statistics.null_count:
                full.discard(column.path_in_schema)
    return full


def _stretches(positions: NDArray[np.int64], apart: int) -> Iterator[tuple[int, int]]:
    """Yield stretches that hold all *positions*, cut where two of them are more than *apart* rows apart."""
    if not len(positions):
        return
    gaps = np.flatnonzero(np.diff(positions) > apart) + 1
    for part in np.split(positions, gaps):
        yield int(part[0]), int(part[-1]) + 1

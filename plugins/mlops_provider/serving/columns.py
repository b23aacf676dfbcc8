"""Columns a model takes: from the cells of requests to arrays, and back to what is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_provider.core.columns import Column, Kind
from mlops_provider.serving.refusal import RefusedRequestError, listed

Cells = Sequence[Any]
Arrays = Mapping[str, NDArray[Any]]

_EXPECTED: Mapping[Kind, str] = {
    "number": "a number",
    "whole": "a whole number",
    "text": "text",
    "flag": "true or false",
    "time": "a time such as 2013-01-31T06:00:00",
}
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_LARGEST_FLOAT = int(np.finfo(np.float64).max)
_SMALLEST_FLOAT = -_LARGEST_FLOAT
_FIRST, _LAST = datetime(1678, 1, 1), datetime(2262, 1, 1)  # noqa: DTZ001 - as the arrays: UTC without saying so
"""Times that nanoseconds in 64 bits reach."""


_CHANGING = ("whole", "flag")
"""Kinds whose arrays have another type where cells are missing."""


@dataclass(slots=True)  # one per request: freezing it would cost more than checking two cells
class Rows:
    """
    Checked cells of one request, in the order of a model's columns.

    :param cells: One sequence per column, all of the same length, at least 1.
    :param gaps: Numbers of the whole-number and flag columns with a missing cell: their arrays have another type.
    :param single: The cells of the only row, if it named them and each is as its array will hold it.
    :param record: The same by name.
    """

    cells: Sequence[Cells]
    gaps: tuple[int, ...]
    single: Cells | None = None
    record: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return 1 if self.single is not None else len(self.cells[0])


def checked(by_name: Mapping[str, Cells], columns: Sequence[Column]) -> Rows:
    """
    Take *columns* out of a request; others are ignored.

    :raises RefusedRequestError: Missing columns, wrong types, no rows.
    """
    cells: list[Cells] = []
    gaps: list[int] = []
    try:
        for number, column in enumerate(columns):
            kept = _CHECK[column.kind](column, by_name[column.name])
            if column.kind in _CHANGING and None in kept:
                gaps.append(number)
            cells.append(kept)
    except KeyError:
        missing = [column.name for column in columns if column.name not in by_name]
        raise RefusedRequestError(
            f"The request lacks {len(missing)} of {len(columns)} columns: {listed(missing)}."
        ) from None
    if not len(cells[0]):
        raise RefusedRequestError("The request holds no rows.")
    return Rows(cells, tuple(gaps))


def checked_row(record: Mapping[str, Any], columns: Sequence[Column]) -> Rows:
    """
    Take *columns* out of a row that names its cells, which is what most requests hold.

    :raises RefusedRequestError: Missing columns, wrong types.
    """
    row = []
    for column in columns:
        try:
            cell = record[column.name]
        except KeyError:
            break
        if type(cell) is not _USUAL[column.kind] and (cell is not None or column.kind in _CHANGING):
            break
        row.append(cell)
    else:
        if len(record) > len(row):
            record = {column.name: cell for column, cell in zip(columns, row, strict=True)}
        return Rows((), (), row, record)
    return checked({name: (cell,) for name, cell in record.items()}, columns)


def arrays(columns: Sequence[Column], requests: Sequence[Rows]) -> dict[str, NDArray[Any]]:
    """
    Join the rows of several requests with equal ``gaps``.

    :return: One array per column, shape (n_rows,): float64 with NaN, int64, object (text, with None), bool, or
        datetime64[ns] in UTC. Whole numbers and flags with missing cells are float64 and object.
    """
    singles = [rows.single for rows in requests if rows.single is not None]
    if len(singles) == len(requests):
        by_column: Sequence[Cells] = list(zip(*singles, strict=True))
    else:
        parts = [[(cell,) for cell in rows.single] if rows.single is not None else rows.cells for rows in requests]
        by_column = [[cell for part in parts for cell in part[number]] for number in range(len(columns))]
    return {column.name: _CONVERT[column.kind](cells) for column, cells in zip(columns, by_column, strict=True)}


def logged(joined: Arrays, requests: Sequence[Rows]) -> Sequence[Mapping[str, Any]]:
    """
    Give the rows back as the model saw them, for the prediction log; missing cells are NaN or None.

    The log writes both as null.

    :param joined: What :func:`arrays` made of *requests*.
    """
    records = [rows.record for rows in requests if rows.record is not None]
    if len(records) == len(requests):
        return records
    names = list(joined)
    cells = [
        (array.astype("datetime64[us]") if array.dtype.kind == "M" else array).tolist() for array in joined.values()
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


_USUAL: Mapping[Kind, type | None] = {"number": float, "whole": None, "text": str, "flag": bool, "time": None}
"""Type of a cell that needs no further look."""


def _numbers(column: Column, cells: Cells) -> Cells:
    for row, cell in enumerate(cells):
        kind = type(cell)
        if kind is float or cell is None:
            continue
        if kind is not int:
            raise _unexpected(column, row)
        if not _SMALLEST_FLOAT <= cell <= _LARGEST_FLOAT:
            raise _too_large(column)
    return cells


def _whole_numbers(column: Column, cells: Cells) -> Cells:
    plain = []
    for row, cell in enumerate(cells):
        if type(cell) is float:
            if not cell.is_integer():
                raise _unexpected(column, row)
            cell = int(cell)  # noqa: PLW2901 - 3.0 is the whole number 3
        elif cell is not None and type(cell) is not int:
            raise _unexpected(column, row)
        if cell is not None and not _SMALLEST <= cell <= _LARGEST:
            raise _too_large(column)
        plain.append(cell)
    return plain


def _texts(column: Column, cells: Cells) -> Cells:
    for row, cell in enumerate(cells):
        if type(cell) is not str and cell is not None:
            raise _unexpected(column, row)
    return cells


def _flags(column: Column, cells: Cells) -> Cells:
    for row, cell in enumerate(cells):
        if type(cell) is not bool and cell is not None:
            raise _unexpected(column, row)
    return cells


def _times(column: Column, cells: Cells) -> Cells:
    return [None if cell is None else _time(column, row, cell) for row, cell in enumerate(cells)]


def _time(column: Column, row: int, text: Any) -> datetime:
    if type(text) is not str:
        raise _unexpected(column, row)
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise _unexpected(column, row) from None
    if not _FIRST <= time < _LAST:
        raise _unexpected(column, row)
    return time


def _unexpected(column: Column, row: int) -> RefusedRequestError:
    return RefusedRequestError(f"Column {column.name!r} must hold {_EXPECTED[column.kind]}: row {row} does not.")


def _too_large(column: Column) -> RefusedRequestError:
    return RefusedRequestError(f"Column {column.name!r} holds a number too large for 64 bits.")


_CHECK: Mapping[Kind, Callable[[Column, Cells], Cells]] = {
    "number": _numbers,
    "whole": _whole_numbers,
    "text": _texts,
    "flag": _flags,
    "time": _times,
}


def _array_of_numbers(cells: Cells) -> NDArray[np.float64]:
    return np.array(cells, dtype=np.float64)


def _array_of_whole_numbers(cells: Cells) -> NDArray[Any]:
    # A missing cell turns the column into floats, as it does in the tables the model was trained on.
    return np.array(cells, dtype=np.float64 if None in cells else np.int64)


def _array_of_texts(cells: Cells) -> NDArray[Any]:
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


def _array_of_flags(cells: Cells) -> NDArray[Any]:
    return _array_of_texts(cells) if None in cells else np.array(cells, dtype=bool)


def _array_of_times(cells: Cells) -> NDArray[np.datetime64]:
    return np.array(cells, dtype="datetime64[us]").astype("datetime64[ns]")


_CONVERT: Mapping[Kind, Callable[[Cells], NDArray[Any]]] = {
    "number": _array_of_numbers,
    "whole": _array_of_whole_numbers,
    "text": _array_of_texts,
    "flag": _array_of_flags,
    "time": _array_of_times,
}

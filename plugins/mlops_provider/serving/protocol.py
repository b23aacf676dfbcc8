"""
MLflow's scoring protocol: from the bytes of a request to the frame a model takes.

Whatever a caller sends wrong becomes one :class:`RefusedRequestError` with a sentence that
names columns, types and row numbers, never a value.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

JSON = "application/json"
CSV = "text/csv"
LAYOUTS = ("dataframe_split", "dataframe_records", "instances", "inputs")

Kind = Literal["number", "whole", "text", "flag", "time"]
Cells = Sequence[Any]

_EXPECTED: Mapping[Kind, str] = {
    "number": "a number",
    "whole": "a whole number",
    "text": "text",
    "flag": "true or false",
    "time": "a time such as 2013-01-31T06:00:00",
}
_NOTHING = type(None)
_TYPES: Mapping[Kind, frozenset[type]] = {
    "number": frozenset({int, float, _NOTHING}),
    "whole": frozenset({int, float, _NOTHING}),
    "text": frozenset({str, _NOTHING}),
    "flag": frozenset({bool, _NOTHING}),
    "time": frozenset({str, _NOTHING}),
}


class RefusedRequestError(Exception):
    """
    A request that can't be answered, and whose mistake that is.

    :param sentence: What is wrong and what is expected; goes to the caller as it is.
    :param status: HTTP status, 400-599.
    """

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status


@dataclass(frozen=True, slots=True)
class Column:
    """A column a model was trained on."""

    name: str
    kind: Kind


def parse(body: bytes, content_type: str, columns: Sequence[Column]) -> pd.DataFrame:
    """
    Read a request into a frame of *columns*, in their order; other columns are ignored.

    :return: Shape (n_rows, len(columns)), at least one row.
    :raises RefusedRequestError: Not JSON or CSV, wrong layout, missing columns, wrong types, no rows.
    """
    cells = _from_csv(body, columns) if media_type(content_type) == CSV else _from_json(body, columns)
    missing = [column.name for column in columns if column.name not in cells]
    if missing:
        raise RefusedRequestError(f"The request lacks {len(missing)} of {len(columns)} columns: {listed(missing)}.")
    if not len(cells[columns[0].name]):
        raise RefusedRequestError("The request holds no rows.")
    return pd.DataFrame({column.name: _array(column, cells[column.name]) for column in columns}, copy=False)


def media_type(content_type: str) -> str:
    """
    Tell JSON from CSV.

    :raises RefusedRequestError: It is neither (415), or not UTF-8.
    """
    kind, _, parameters = content_type.lower().partition(";")
    charset = parameters.partition("charset=")[2].strip(' "')
    if kind.strip() not in (JSON, CSV) or charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise RefusedRequestError(f"The content type must be {JSON} or {CSV}, in UTF-8.", 415)
    return kind.strip()


def listed(names: Sequence[str], most: int = 10) -> str:
    """Join *names* for a sentence; beyond *most* they are only counted."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _from_json(body: bytes, columns: Sequence[Column]) -> Mapping[str, Cells]:
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise RefusedRequestError(f"The body is not valid JSON{place}.") from None
    given = [layout for layout in LAYOUTS if isinstance(content, dict) and layout in content]
    if len(given) != 1:
        raise RefusedRequestError(f"The body must be a JSON object with exactly one of {', '.join(LAYOUTS)}.")
    if content.get("params"):
        raise RefusedRequestError("The model takes no params.")
    layout, value = given[0], content[given[0]]
    if layout == "dataframe_split":
        return _from_split(value)
    if layout == "inputs" and isinstance(value, dict):
        return _from_columns(value)
    if not isinstance(value, list):
        raise RefusedRequestError(f"{layout} must be a list of rows.")
    if layout != "dataframe_records" and value and isinstance(value[0], list):
        return _from_rows(layout, [column.name for column in columns], value)
    return _from_records(layout, value, columns)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _from_split(value: Any) -> Mapping[str, Cells]:
    names = value.get("columns") if isinstance(value, dict) else None
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(names, list) or not isinstance(rows, list) or not all(isinstance(name, str) for name in names):
        raise RefusedRequestError('dataframe_split must look like {"columns": [names], "data": [[cells], ...]}.')
    return _from_rows("dataframe_split", names, rows)


def _from_rows(layout: str, names: Sequence[str], rows: Sequence[Any]) -> Mapping[str, Cells]:
    if len(set(names)) < len(names):
        raise RefusedRequestError(f"{layout} names a column twice.")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise RefusedRequestError(f"{layout}: row {number} must be a list of {len(names)} cells.")
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())


def _from_columns(value: Mapping[str, Any]) -> Mapping[str, Cells]:
    lengths = {len(cells) if isinstance(cells, list) else -1 for cells in value.values()}
    if len(lengths) > 1 or -1 in lengths:
        raise RefusedRequestError("inputs must hold one list of cells per column, all of the same length.")
    return value


def _from_records(layout: str, records: Sequence[Any], columns: Sequence[Column]) -> Mapping[str, Cells]:
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise RefusedRequestError(f"{layout}: row {number} must be an object of column names and cells.")
    names = [column.name for column in columns]
    if len(records) == 1:
        return {name: (records[0][name],) for name in names if name in records[0]}
    if not records:
        return dict.fromkeys(names, ())
    return {
        name: [record.get(name) for record in records] for name in names if any(name in record for record in records)
    }


def _from_csv(body: bytes, columns: Sequence[Column]) -> Mapping[str, Cells]:
    try:
        names, *rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True) if row]
    except (ValueError, csv.Error):
        raise RefusedRequestError("The body is not CSV with a line of column names, in UTF-8.") from None
    by_name = _from_rows("The CSV body", names, rows)
    return {
        column.name: [_from_text(column.kind, cell) for cell in by_name[column.name]]
        for column in columns
        if column.name in by_name
    }


def _from_text(kind: Kind, cell: str) -> Any:
    """Give the cell the type it would have in JSON; what does not fit stays text and is refused later."""
    if not cell:
        return None
    if kind in ("text", "time"):
        return cell
    if kind == "flag":
        return {"true": True, "false": False}.get(cell.lower(), cell)
    for number in (int, float):
        try:
            return number(cell)
        except ValueError:
            continue
    return cell


def _array(column: Column, cells: Cells) -> np.ndarray[Any, Any]:
    allowed = _TYPES[column.kind]
    if not set(map(type, cells)) <= allowed:
        raise _wrong(column, next(number for number, cell in enumerate(cells) if type(cell) not in allowed))
    try:
        return _CONVERT[column.kind](column, cells)
    except OverflowError:
        raise RefusedRequestError(f"Column {column.name!r} holds a number too large for 64 bits.") from None


def _numbers(column: Column, cells: Cells) -> np.ndarray[Any, Any]:
    array = np.array(cells, dtype=np.float64)
    if np.isinf(array).any():
        raise _wrong(column, int(np.isinf(array).argmax()))
    return array


def _whole_numbers(column: Column, cells: Cells) -> np.ndarray[Any, Any]:
    if all(type(cell) is int for cell in cells):
        return np.array(cells, dtype=np.int64)
    array = _numbers(column, cells)
    broken = array % 1 > 0
    if broken.any():
        raise _wrong(column, int(broken.argmax()))
    # A missing cell turns the column into floats, as it does in the tables the model was trained on.
    return array if np.isnan(array).any() else array.astype(np.int64)


def _texts(column: Column, cells: Cells) -> np.ndarray[Any, Any]:
    array = np.empty(len(cells), dtype=object)
    array[:] = cells
    return array


def _flags(column: Column, cells: Cells) -> np.ndarray[Any, Any]:
    return _texts(column, cells) if None in cells else np.array(cells, dtype=bool)


def _times(column: Column, cells: Cells) -> np.ndarray[Any, Any]:
    times = pd.to_datetime(pd.Series(cells, dtype=object), errors="coerce", utc=True, format="ISO8601")
    for number, (cell, time) in enumerate(zip(cells, times, strict=True)):
        if cell is not None and pd.isna(time):
            raise _wrong(column, number)
    return times.dt.tz_localize(None).to_numpy()


def _wrong(column: Column, row: int) -> RefusedRequestError:
    return RefusedRequestError(f"Column {column.name!r} must hold {_EXPECTED[column.kind]}: row {row} does not.")


_CONVERT: Mapping[Kind, Callable[[Column, Cells], np.ndarray[Any, Any]]] = {
    "number": _numbers,
    "whole": _whole_numbers,
    "text": _texts,
    "flag": _flags,
    "time": _times,
}

"""
MLflow's scoring protocol: from the bytes of a request to cells by column, and from predictions to the answer.

Whatever a caller sends wrong becomes one :class:`RefusedRequestError` with a sentence that
names columns, types and row numbers, never a value.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from mlops_provider.core.columns import Column, Kind
from mlops_provider.serving.columns import Cells, Rows, checked, checked_row
from mlops_provider.serving.refusal import RefusedRequestError

JSON = "application/json"
CSV = "text/csv"
LAYOUTS = ("dataframe_split", "dataframe_records", "instances", "inputs")

_decode = msgspec.json.Decoder().decode


class Content(Protocol):
    """The rows of a request, before it is known which version takes them."""

    def rows(self, columns: Sequence[Column]) -> Rows:
        """
        Give the cells of *columns*, checked.

        :raises RefusedRequestError: Missing columns, wrong types, no rows.
        """

    def column(self, name: str) -> Cells | None:
        """The unchecked cells of a column, which the model need not know; None if there is no such column."""

    def first(self, name: str) -> Any:
        """The cell of a column, which the model need not know, in the first row; None if there is no such cell."""


@dataclass(frozen=True, slots=True)
class Records:
    """Rows that each name their cells."""

    layout: str
    records: Sequence[Any]

    def rows(self, columns: Sequence[Column]) -> Rows:
        records = self.records
        for number, record in enumerate(records):
            if not isinstance(record, dict):
                raise RefusedRequestError(f"{self.layout}: row {number} must be an object of column names and cells.")
        if len(records) == 1:
            return checked_row(records[0], columns)
        names = {name for record in records for name in record}
        wanted = [column.name for column in columns if column.name in names or not records]
        return checked({name: [record.get(name) for record in records] for name in wanted}, columns)

    def column(self, name: str) -> Cells | None:
        return [record.get(name) for record in self.records]

    def first(self, name: str) -> Any:
        return self.records[0].get(name) if self.records and isinstance(self.records[0], dict) else None


@dataclass(frozen=True, slots=True)
class Table:
    """
    Rows that are lists of cells.

    :param names: Column of each cell; None for those of the model, in its order.
    """

    layout: str
    names: Sequence[str] | None
    lists: Sequence[Any]
    text: bool = False

    def rows(self, columns: Sequence[Column]) -> Rows:
        names = [column.name for column in columns] if self.names is None else self.names
        for number, row in enumerate(self.lists):
            if not isinstance(row, list) or len(row) != len(names):
                raise RefusedRequestError(f"{self.layout}: row {number} must be a list of {len(names)} cells.")
        cells: Sequence[Cells] = list(zip(*self.lists, strict=True)) if self.lists else [()] * len(names)
        by_name = dict(zip(names, cells, strict=True))
        if self.text:
            by_name = {
                column.name: [_from_text(column.kind, cell) for cell in by_name[column.name]]
                for column in columns
                if column.name in by_name
            }
        return checked(by_name, columns)

    def column(self, name: str) -> Cells | None:
        if self.names is None or name not in self.names:
            return None
        place = self.names.index(name)
        return [row[place] for row in self.lists]

    def first(self, name: str) -> Any:
        if self.names is None or name not in self.names or not self.lists:
            return None
        row, place = self.lists[0], self.names.index(name)
        return row[place] if isinstance(row, list) and place < len(row) else None


@dataclass(frozen=True, slots=True)
class Columns:
    """Cells by column, equally many in each."""

    cells: Mapping[str, Cells]

    def rows(self, columns: Sequence[Column]) -> Rows:
        return checked(self.cells, columns)

    def column(self, name: str) -> Cells | None:
        return self.cells.get(name)

    def first(self, name: str) -> Any:
        return next(iter(self.cells.get(name, ())), None)


def parse(body: bytes, content_type: str) -> Content:
    """
    Read a request.

    :raises RefusedRequestError: Not JSON or CSV, or a wrong layout.
    """
    if content_type != JSON and media_type(content_type) == CSV:
        return _from_csv(body)
    return _from_json(decoded(body))


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


def decoded(body: bytes) -> Any:
    """
    Read JSON.

    :raises RefusedRequestError: It is none; NaN and numbers beyond 64 bits are none.
    """
    try:
        return _decode(body)
    except RecursionError:
        raise RefusedRequestError("The body is not valid JSON: it is nested too deeply.") from None
    except ValueError as error:
        _, _, place = str(error).partition("(byte ")
        where = f" at byte {place.rstrip(')')}" if place.rstrip(")").isdecimal() else ""
        cell = " A missing cell is null." if b"NaN" in body else ""
        raise RefusedRequestError(f"The body is not valid JSON{where}.{cell}") from None


def answer(
    predictions: Sequence[float], answered_by: Sequence[str] | None = None, *, fallback: bool, **about: str
) -> bytes:
    """
    Write ``{"predictions": [...]}``, and whether they are the declared fallback instead of the model's.

    :param answered_by: Of a model of segments, the segment whose own model answered each row.
    """
    content: dict[str, Any] = {"predictions": predictions}
    if answered_by is not None:
        content["answered_by"] = answered_by
    return msgspec.json.encode(content | {"fallback": True} if fallback else content)


def _from_json(content: Any) -> Content:
    given = content.keys() & LAYOUTS if isinstance(content, dict) else ()
    if len(given) != 1:
        raise RefusedRequestError(f"The body must be a JSON object with exactly one of {', '.join(LAYOUTS)}.")
    if content.get("params"):
        raise RefusedRequestError("The model takes no params.")
    (layout,) = given
    value = content[layout]
    if layout == "dataframe_split":
        return _from_split(value)
    if layout == "inputs" and isinstance(value, dict):
        return _from_columns(value)
    if not isinstance(value, list):
        raise RefusedRequestError(f"{layout} must be a list of rows.")
    if layout != "dataframe_records" and value and isinstance(value[0], list):
        return Table(layout, None, value)
    return Records(layout, value)


def _from_split(value: Any) -> Table:
    names = value.get("columns") if isinstance(value, dict) else None
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(names, list) or not isinstance(rows, list) or not all(isinstance(name, str) for name in names):
        raise RefusedRequestError('dataframe_split must look like {"columns": [names], "data": [[cells], ...]}.')
    return _table("dataframe_split", names, rows)


def _table(layout: str, names: Sequence[str], rows: Sequence[Any], *, text: bool = False) -> Table:
    if len(set(names)) < len(names):
        raise RefusedRequestError(f"{layout} names a column twice.")
    return Table(layout, names, rows, text)


def _from_columns(value: Mapping[str, Any]) -> Columns:
    lengths = {len(cells) if isinstance(cells, list) else -1 for cells in value.values()}
    if len(lengths) > 1 or -1 in lengths:
        raise RefusedRequestError("inputs must hold one list of cells per column, all of the same length.")
    return Columns(value)


def _from_csv(body: bytes) -> Table:
    try:
        names, *rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True) if row]
    except (ValueError, csv.Error):
        raise RefusedRequestError("The body is not CSV with a line of column names, in UTF-8.") from None
    return _table("The CSV body", names, rows, text=True)


def _from_text(kind: Kind, cell: str) -> Any:
    """Give the cell the type it would have in JSON; what does not fit stays text and is refused later."""
    if not cell:
        return None
    if kind in ("text", "time"):
        return cell
    if kind == "flag":
        return {"true": True, "false": False}.get(cell.lower(), cell)
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        number = float(cell)
    except ValueError:
        return cell
    return cell if math.isinf(number) else None if math.isnan(number) else number

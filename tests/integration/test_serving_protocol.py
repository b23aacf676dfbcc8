from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_provider.core.columns import Column
from mlops_provider.serving.columns import arrays
from mlops_provider.serving.protocol import CSV, JSON, LAYOUTS, parse
from mlops_provider.serving.refusal import RefusedRequestError

COLUMNS = (
    Column("distance", "number"),
    Column("seats", "whole"),
    Column("carrier", "text"),
    Column("delayed", "flag"),
    Column("scheduled", "time"),
)
ROWS = [
    {"distance": 1.5, "seats": 100, "carrier": "AA", "delayed": True, "scheduled": "2013-01-01T06:00:00"},
    {"distance": 2, "seats": 150, "carrier": "UA", "delayed": False, "scheduled": "2013-01-01 07:00"},
]
NAMES = list(ROWS[0])
CELLS = [list(row.values()) for row in ROWS]


def sent(content: Any, content_type: str = JSON, columns: tuple[Column, ...] = COLUMNS) -> pd.DataFrame:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return pd.DataFrame(arrays(columns, [parse(body, content_type).rows(columns)]))


def refused(content: Any, content_type: str = JSON, columns: tuple[Column, ...] = COLUMNS) -> RefusedRequestError:
    with pytest.raises(RefusedRequestError) as caught:
        sent(content, content_type, columns)
    assert 400 <= caught.value.status < 500
    return caught.value


@pytest.mark.parametrize(
    "content",
    [
        {"dataframe_split": {"columns": NAMES, "data": CELLS}},
        {"dataframe_split": {"columns": NAMES[::-1], "index": [7, 8], "data": [row[::-1] for row in CELLS]}},
        {"dataframe_records": ROWS},
        {"instances": ROWS},
        {"instances": CELLS},
        {"inputs": {name: [row[name] for row in ROWS] for name in NAMES}},
        {"inputs": CELLS, "params": {}},
        {"dataframe_records": [{**row, "tail_number": "N1"} for row in ROWS]},
    ],
    ids=[
        "split",
        "split reversed",
        "records",
        "instances",
        "positional instances",
        "inputs",
        "positional inputs",
        "extra",
    ],
)
def test_every_layout_of_mlflow_gives_the_same_frame(content: dict[str, Any]) -> None:
    frame = sent(content)

    assert list(frame.columns) == NAMES
    assert frame["distance"].tolist() == [1.5, 2.0]
    assert frame["seats"].tolist() == [100, 150]
    assert frame["carrier"].tolist() == ["AA", "UA"]
    assert frame["delayed"].tolist() == [True, False]
    assert frame["scheduled"].tolist() == [pd.Timestamp(2013, 1, 1, 6), pd.Timestamp(2013, 1, 1, 7)]
    assert [str(kind) for kind in frame.dtypes] == ["float64", "int64", "object", "bool", "datetime64[ns]"]


def test_csv_gives_the_same_frame() -> None:
    lines = ["carrier,distance,seats,delayed,scheduled,gate"]
    lines += ["AA,1.5,100,true,2013-01-01T06:00:00,B", "UA,2,150,FALSE,2013-01-01 07:00,C", ""]

    frame = sent("\r\n".join(lines).encode(), f"{CSV}; charset=utf-8")

    pd.testing.assert_frame_equal(frame, sent({"dataframe_records": ROWS}))


def test_empty_cells_are_missing_values() -> None:
    by_json = sent({"dataframe_records": [dict.fromkeys(NAMES), ROWS[0]]})
    by_csv = sent(b"distance,seats,carrier,delayed,scheduled\n,,,,\n1.5,100,AA,true,2013-01-01T06:00:00\n", CSV)

    assert by_json.iloc[0].isna().all()
    assert by_json["seats"].dtype == np.float64
    pd.testing.assert_frame_equal(by_json, by_csv)


def test_a_record_may_leave_out_a_cell_that_others_have() -> None:
    frame = sent({"dataframe_records": [{"distance": 1.0}, {}]}, columns=COLUMNS[:1])

    assert frame["distance"].isna().tolist() == [False, True]


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert sent({"inputs": {"seats": [3.0, 4]}}, columns=COLUMNS[1:2])["seats"].tolist() == [3, 4]


def test_missing_columns_are_named() -> None:
    error = refused({"dataframe_records": [{"distance": 1, "seats": 2}]})

    assert error.sentence == "The request lacks 3 of 5 columns: carrier, delayed, scheduled."


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("distance", "far", "a number"),
        ("distance", "1.5", "a number"),
        ("distance", True, "a number"),
        ("distance", [1], "a number"),
        ("seats", 1.5, "a whole number"),
        ("seats", {"n": 1}, "a whole number"),
        ("carrier", 7, "text"),
        ("delayed", "yes", "true or false"),
        ("delayed", 1, "true or false"),
        ("scheduled", "tomorrow", "a time"),
        ("scheduled", 1357, "a time"),
    ],
)
def test_a_wrong_type_names_column_and_row_but_not_the_value(column: str, cell: Any, expected: str) -> None:
    error = refused({"dataframe_records": [ROWS[0], {**ROWS[1], column: cell}]})

    assert error.sentence.startswith(f"Column {column!r} must hold {expected}")
    assert error.sentence.endswith("row 1 does not.")


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400])
def test_numbers_beyond_64_bits_are_refused(number: str) -> None:
    for column in COLUMNS[:2]:
        refused(f'{{"inputs": {{"{column.name}": [{number}]}}}}'.encode(), columns=(column,))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"rows"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"dataframe_records": [{"distance": NaN}]}',
        b'{"rows": []}',
        b'{"instances": [], "inputs": []}',
        b'{"instances": 3}',
        b'{"instances": {"distance": 1}}',
        b'{"instances": [3, 4]}',
        b'{"instances": [[1, 2]]}',
        b'{"instances": [[1, 2, "AA", true, "2013-01-01"], {}]}',
        b'{"inputs": {"distance": 1}}',
        b'{"inputs": {"distance": [1], "seats": [1, 2]}}',
        b'{"dataframe_split": [1]}',
        b'{"dataframe_split": {"data": [[1]]}}',
        b'{"dataframe_split": {"columns": [1], "data": [[1]]}}',
        b'{"dataframe_split": {"columns": ["distance"], "data": [1]}}',
        b'{"dataframe_split": {"columns": ["distance", "distance"], "data": [[1, 2]]}}',
        b'{"dataframe_records": "distance"}',
        b'{"instances": [{"distance": 1}], "params": {"beam": 3}}',
    ],
)
def test_malformed_json_is_refused_in_words(body: bytes) -> None:
    error = refused(body)

    assert error.sentence.endswith(".")
    assert "Traceback" not in error.sentence


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_rows_are_refused(layout: str) -> None:
    columns = {name: [] for name in NAMES}
    empty = {"dataframe_split": {"columns": NAMES, "data": []}, "inputs": columns}

    assert refused({layout: empty.get(layout, [])}).sentence == "The request holds no rows."


@pytest.mark.parametrize("body", [b"", b'distance\n"1', b"distance,seats\n1\n", b"\xff\xfe1"])
def test_malformed_csv_is_refused_in_words(body: bytes) -> None:
    assert refused(body, CSV).sentence.endswith(".")


@pytest.mark.parametrize("content_type", ["", "application/xml", "application/json; charset=utf-16", "text/plain"])
def test_other_content_types_are_refused(content_type: str) -> None:
    assert refused({"dataframe_records": ROWS}, content_type).status == 415


def test_many_missing_columns_are_counted() -> None:
    columns = tuple(Column(f"c{number}", "number") for number in range(15))

    assert refused({"instances": [{"a": 1}]}, columns=columns).sentence.endswith("c9 and 5 more.")

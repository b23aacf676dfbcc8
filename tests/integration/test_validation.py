"""Expectations with a severity, checked by the real Great Expectations."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_provider.adapters.expectations import Expectation
from mlops_provider.adapters.validation import divide, load_expectations, validate
from mlops_provider.adapters.validation_page import validation_page
from mlops_provider.exceptions import SpecError

pytestmark = pytest.mark.integration

SECRET = 987_654.25
"""A value that no message and no report may hold."""

HAS_ROWS = Expectation(
    type="expect_table_row_count_to_be_between", kwargs={"min_value": 1}, severity="block", meaning="There are rows"
)
HAS_COLUMNS = Expectation(
    type="expect_table_columns_to_match_set",
    kwargs={"column_set": ["name", "size"], "exact_match": False},
    severity="block",
    meaning="The columns are there",
)
IS_NUMBER = Expectation(
    type="expect_column_values_to_be_of_type",
    kwargs={"column": "size", "type_": "float64"},
    severity="block",
    meaning="The size is a number",
)
KEY_ONCE = Expectation(
    type="expect_compound_columns_to_be_unique",
    kwargs={"column_list": ["name", "day"]},
    severity="quarantine",
    meaning="A name comes once a day",
)


def size(severity: str, **kwargs: Any) -> Expectation:
    return Expectation(
        type="expect_column_values_to_be_between",
        kwargs={"column": "size", "min_value": 0, "max_value": 10, **kwargs},
        severity=severity,
        meaning="The size is 0 to 10",
    )


def frame(*sizes: float) -> pd.DataFrame:
    return pd.DataFrame({"name": [f"n{i}" for i in range(len(sizes))], "day": 1, "size": [float(s) for s in sizes]})


def test_a_good_frame_meets_everything() -> None:
    found = validate(frame(1, 2, 3), [HAS_ROWS, HAS_COLUMNS, IS_NUMBER, KEY_ONCE, size("quarantine")])

    assert [outcome.standing for outcome in found.outcomes] == ["met"] * 5
    assert (found.blocking, found.warnings, found.quarantined) == ((), (), ())
    assert not len(found.rejected)


def test_rows_that_break_an_expectation_are_set_apart_with_the_reasons() -> None:
    rows = frame(1, SECRET, 3, -4)
    rows.loc[3, "name"] = None
    named = Expectation(
        type="expect_column_values_to_not_be_null",
        kwargs={"column": "name"},
        severity="quarantine",
        meaning="There is a name",
    )

    found = validate(rows, [size("quarantine"), named])
    clean, bad = divide(rows, found, reasons="reasons")

    assert found.blocking == ()
    assert clean["size"].tolist() == [1, 3]
    assert bad["reasons"].tolist() == ["The size is 0 to 10", "The size is 0 to 10; There is a name"]
    assert bad.drop(columns="reasons").equals(rows.iloc[[1, 3]].reset_index(drop=True))


def test_dividing_loses_no_row_whatever_the_index() -> None:
    rows = frame(1, SECRET, 3, 4).set_index(pd.Index([7, 7, 0, 0]))

    clean, bad = divide(rows, validate(rows, [size("quarantine")]), reasons="reasons")

    assert sorted([*clean["name"], *bad["name"]]) == sorted(rows["name"])


def test_too_many_bad_rows_refuse_the_frame_if_a_share_is_given() -> None:
    rows = frame(1, 2, SECRET, SECRET)

    few_allowed = validate(rows, [size("quarantine", mostly=0.75)])
    many_allowed = validate(rows, [size("quarantine", mostly=0.5)])
    any_number = validate(rows, [size("quarantine")])

    assert few_allowed.blocking == (
        "The size is 0 to 10 (expect_column_values_to_be_between): 2 of 4 rows break it (50.0%, at most 25.0% may)",
    )
    assert many_allowed.blocking == any_number.blocking == ()
    assert len(many_allowed.rejected) == len(any_number.rejected) == 2


def test_a_frame_of_bad_rows_only_is_refused() -> None:
    found = validate(frame(-1, -2), [size("quarantine")])

    assert found.blocking == ("Each of the 2 rows breaks an expectation that sets rows apart",)


def test_warnings_change_nothing() -> None:
    found = validate(frame(1, SECRET), [size("warn", mostly=0.9)])

    assert found.blocking == ()
    assert not len(found.rejected)
    assert len(found.warnings) == 1


def test_a_missing_column_is_named_once_and_not_by_all_that_look_at_it() -> None:
    found = validate(frame(1).drop(columns="size"), [HAS_COLUMNS, IS_NUMBER, size("quarantine"), size("warn")])

    assert found.blocking == ("The columns are there (expect_table_columns_to_match_set): missing: size",)
    assert [outcome.checked for outcome in found.outcomes] == [True, False, False, False]


def test_what_cannot_be_checked_refuses_the_frame_if_nothing_else_does() -> None:
    found = validate(frame(1).drop(columns="size"), [size("quarantine")])

    assert found.blocking == (
        "The size is 0 to 10 (expect_column_values_to_be_between): could not be checked, there is no column size",
    )


def test_words_in_a_column_of_numbers_are_a_wrong_type() -> None:
    rows = frame(1, 2).astype({"size": "object"})
    rows.loc[1, "size"] = "a secret"

    found = validate(rows, [IS_NUMBER, size("quarantine")])

    assert found.blocking[0].startswith("The size is a number (expect_column_values_to_be_of_type)")
    assert "secret" not in " ".join(found.blocking)


def test_no_rows_are_refused() -> None:
    found = validate(frame(), [HAS_ROWS, KEY_ONCE, size("quarantine", mostly=0.9)])

    assert found.blocking == ("There are rows (expect_table_row_count_to_be_between): found 0, expected min value 1",)


def test_of_exact_copies_the_first_stays_and_of_contradicting_rows_none() -> None:
    rows = frame(1, 2, 3)
    rows = pd.concat([rows, rows.iloc[[0, 0]], rows.iloc[[1]].assign(size=9.0)], ignore_index=True)

    found = validate(rows, [KEY_ONCE])

    assert found.rejected.tolist() == [1, 3, 4, 5]
    assert found.outcomes[0].failing == 4
    assert found.blocking == ()


def test_two_limits_of_one_column_are_both_checked() -> None:
    wide = size("block", max_value=1000)

    found = validate(frame(1, 50), [size("warn"), wide])

    assert [outcome.standing for outcome in found.outcomes] == ["warned", "met"]


def test_no_message_holds_a_value_of_a_row() -> None:
    rows = pd.concat([frame(SECRET, SECRET), frame(SECRET)])
    largest = Expectation(
        type="expect_column_max_to_be_between",
        kwargs={"column": "size", "max_value": 10},
        severity="block",
        meaning="No size is above 10",
    )
    among = Expectation(
        type="expect_column_distinct_values_to_be_in_set",
        kwargs={"column": "size", "value_set": [1.0]},
        severity="block",
        meaning="Sizes are 1",
    )

    found = validate(rows, [largest, among, size("block"), KEY_ONCE])
    page = validation_page(found, model="m", partition="2013-01", about={})

    said = [page, repr(found.outcomes), *found.blocking, *(str(outcome.as_json()) for outcome in found.outcomes)]
    assert not [text for text in said if "987" in text]


def test_the_report_stands_alone_and_names_what_was_not_met() -> None:
    found = validate(frame(1, 20, 3), [HAS_ROWS, size("quarantine"), size("warn", max_value=2)])

    page = validation_page(found, model="parcels", partition="2013-01", about={"Data": "raw, <version> 3"})

    assert "parcels: the data of 2013-01" in page
    assert "&lt;version&gt;" in page
    assert page.index("The size is 0 to 10") < page.index("There are rows")
    assert not [word for word in ("http:", "https:", "<script", "@import", "src=") if word in page]


def test_validating_says_nothing_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    out, err = io.StringIO(), io.StringIO()

    with caplog.at_level(logging.INFO), redirect_stdout(out), redirect_stderr(err):
        validate(frame(1, 2), [HAS_ROWS, KEY_ONCE, size("quarantine")])

    assert out.getvalue() == err.getvalue() == ""
    assert caplog.records == []


def written(folder: Path, text: str) -> Path:
    path = folder / "expectations.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{type: expect_column_values_to_be_betwen, kwargs: {column: a}, severity: block, meaning: x}", "not found"),
        (
            "{type: expect_column_values_to_be_between, kwargs: {column: a, min: 1}, severity: warn, meaning: x}",
            "kwargs: min: extra fields not permitted",
        ),
        (
            "{type: expect_column_values_to_be_between, kwargs: {max_value: 1}, severity: warn, meaning: x}",
            "kwargs: column: field required",
        ),
        ("{type: expect_column_to_exist, kwargs: {column: a}, severity: blok, meaning: x}", "severity: expected"),
        ("{type: expect_column_to_exist, kwargs: {column: a}, severity: block}", "meaning: required"),
        ("{type: expect_column_to_exist, kwarg: {column: a}, severity: block, meaning: x}", "did you mean 'kwargs'"),
    ],
)
def test_a_mistake_in_the_file_has_its_line(tmp_path: Path, entry: str, said: str) -> None:
    path = written(tmp_path, f"expectations:\n\n  - {entry}\n")

    with pytest.raises(SpecError) as raised:
        load_expectations(path)

    assert f"{path}:3:" in str(raised.value)
    assert said in str(raised.value)


def test_an_expectation_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    entry = "  - {type: expect_column_to_exist, kwargs: {column: a}, severity: block, meaning: x}\n"

    with pytest.raises(SpecError, match=r":3: expectations\.1: stands here twice"):
        load_expectations(written(tmp_path, "expectations:\n" + 2 * entry))


def test_of_exact_copies_under_a_single_key_column_the_first_stays() -> None:
    rows = pd.concat([frame(1, 2, 3), frame(1)], ignore_index=True)
    name_once = Expectation(
        type="expect_column_values_to_be_unique",
        kwargs={"column": "name"},
        severity="quarantine",
        meaning="A name comes once",
    )

    found = validate(rows, [name_once])

    assert found.rejected.tolist() == [3]

"""Validation of a table in chunks gives what Great Expectations gives on all of it in one piece."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import great_expectations as gx
import numpy as np
import pandas as pd
import pytest
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_provider.adapters import checks, chunk_validation
from mlops_provider.adapters.chunk_validation import check_chunk, conclude
from mlops_provider.adapters.expectations import Expectation, Validation
from mlops_provider.adapters.validation import validate
from mlops_provider.core.references import TableRef
from mlops_provider.stores.rows import Rows
from mlops_provider.stores.tables import Tables

pytestmark = pytest.mark.integration

SEVERITIES = st.sampled_from(["block", "quarantine", "warn"])
MOSTLY = st.sampled_from([{}, {"mostly": 0.5}, {"mostly": 0.9}, {"mostly": 1.0}])


def expectation(kind: str, severity: str = "quarantine", **kwargs: Any) -> Expectation:
    return Expectation(type=kind, kwargs=kwargs, severity=severity, meaning=f"{kind} of {kwargs}")


ROW_WISE = [
    ("expect_column_values_to_not_be_null", {"column": "count"}),
    ("expect_column_values_to_be_null", {"column": "name"}),
    ("expect_column_values_to_be_between", {"column": "size", "min_value": 0, "max_value": 8}),
    ("expect_column_values_to_be_between", {"column": "count", "min_value": 1}),
    ("expect_column_values_to_be_in_set", {"column": "name", "value_set": ["a", "b"]}),
    ("expect_column_values_to_match_regex", {"column": "name", "regex": "^[ab]"}),
    ("expect_column_value_lengths_to_equal", {"column": "name", "value": 1}),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "size", "column_B": "count"}),
    (
        "expect_column_pair_values_a_to_be_greater_than_b",
        {"column_A": "size", "column_B": "count", "ignore_row_if": "either_value_is_missing"},
    ),
    ("expect_column_pair_values_to_be_equal", {"column_A": "size", "column_B": "count"}),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["size", "count"], "sum_total": 4}),
    ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["size", "count"]}),
    ("expect_column_values_to_be_between", {"column": "absent", "min_value": 0}),
]
KEYS = [
    ("expect_column_values_to_be_unique", {"column": "name"}),
    ("expect_column_values_to_be_unique", {"column": "size"}),
    ("expect_compound_columns_to_be_unique", {"column_list": ["name", "count"]}),
    (
        "expect_compound_columns_to_be_unique",
        {"column_list": ["size", "name"], "ignore_row_if": "any_value_is_missing"},
    ),
    ("expect_compound_columns_to_be_unique", {"column_list": ["flag", "count"], "ignore_row_if": "never"}),
    ("expect_column_values_to_be_increasing", {"column": "size"}),
    ("expect_column_value_z_scores_to_be_less_than", {"column": "size", "threshold": 1, "double_sided": True}),
]
WHOLE = [
    ("expect_table_row_count_to_be_between", {"min_value": 20}),
    ("expect_table_row_count_to_equal", {"value": 30}),
    ("expect_table_column_count_to_equal", {"value": 5}),
    ("expect_table_columns_to_match_set", {"column_set": ["name", "size"], "exact_match": False}),
    ("expect_table_columns_to_match_set", {"column_set": ["name", "size"]}),
    ("expect_column_to_exist", {"column": "name"}),
    ("expect_column_to_exist", {"column": "absent"}),
    ("expect_column_values_to_be_of_type", {"column": "count", "type_": "int64"}),
    ("expect_column_values_to_be_of_type", {"column": "count", "type_": "float64"}),
    ("expect_column_values_to_be_of_type", {"column": "name", "type_": "str"}),
    ("expect_column_values_to_be_of_type", {"column": "day", "type_": "Timestamp"}),
    ("expect_column_mean_to_be_between", {"column": "size", "min_value": 3, "max_value": 5}),
    ("expect_column_median_to_be_between", {"column": "count", "min_value": 2, "max_value": 5}),
    ("expect_column_stdev_to_be_between", {"column": "size", "max_value": 3}),
    ("expect_column_max_to_be_between", {"column": "size", "max_value": 8}),
    ("expect_column_unique_value_count_to_be_between", {"column": "name", "max_value": 3}),
    ("expect_column_distinct_values_to_be_in_set", {"column": "name", "value_set": ["a", "b", "c"]}),
    ("expect_column_most_common_value_to_be_in_set", {"column": "name", "value_set": ["a"]}),
    ("expect_column_proportion_of_unique_values_to_be_between", {"column": "name", "max_value": 0.5}),
    (
        "expect_column_quantile_values_to_be_between",
        {"column": "size", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[2, 5]]}},
    ),
]
ALL = [*ROW_WISE, *KEYS, *WHOLE]
TAKES_MOSTLY = {kind for kind, _ in [*ROW_WISE, *KEYS]}


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Rows with few distinct values, so that keys repeat; with or without gaps, copies, and nothing at all."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.sampled_from([0, 1, 2, 17, 40]))
    gaps = draw(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    frame = pd.DataFrame(
        {
            "name": random.choice(["a", "b", "c", "dd"], rows).astype(object),
            "size": random.choice([0.0, -0.0, 1.5, 3.0, 9.0], rows),
            "count": random.integers(0, 6, rows),
            "flag": random.random(rows) < 0.5,
            "day": pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(random.integers(0, 9, rows), unit="D"),
        }
    )
    for column in frame:
        if draw(st.booleans()) and gaps:
            kept = random.random(rows) >= gaps
            nullable = {"count": "Int64", "flag": "boolean"}.get(str(column))
            frame[column] = (frame[column].astype(nullable) if nullable else frame[column]).where(kept, None)
    copies = frame.sample(frac=draw(st.sampled_from([0, 0.3])), random_state=1)
    return pd.concat([frame, copies], ignore_index=True)


expectations = st.lists(
    st.builds(
        lambda what, severity, mostly: expectation(
            what[0], severity, **what[1], **(mostly if what[0] in TAKES_MOSTLY else {})
        ),
        st.sampled_from(ALL),
        SEVERITIES,
        MOSTLY,
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda each: str((each.type, each.kwargs)),
)


def stored(folder: Path, frame: pd.DataFrame) -> tuple[Rows, pd.DataFrame]:
    """The rows of a table and what reading it in one piece gives."""
    store = Tables(str(folder))
    written = store.replace_partition(store.uri("m", "raw"), "2013-01").write(frame, origin_key="test")
    return store.rows(written.ref), store.read(TableRef(written.ref.table, written.ref.version, "2013-01"))


def in_chunks(rows: Rows, declared: list[Expectation], cuts: list[int]) -> Validation:
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    found = [check_chunk(rows.frame(first, last), declared, start=first) for first, last in pairwise(edges)]
    return conclude(declared, found, rows)


def assert_same(one: Validation, other: Validation) -> None:
    assert [outcome.as_json() for outcome in one.outcomes] == [outcome.as_json() for outcome in other.outcomes]
    assert (one.total, one.blocking, one.warnings) == (other.total, other.blocking, other.warnings)
    assert one.rejected.tolist() == other.rejected.tolist()
    assert one.reasons(one.rejected).tolist() == other.reasons(other.rejected).tolist()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=tables(), declared=expectations, cuts=st.lists(st.integers(0, 50), max_size=3))
def test_chunks_say_what_great_expectations_says_of_all_rows_at_once(
    tmp_path_factory: pytest.TempPathFactory, frame: pd.DataFrame, declared: list[Expectation], cuts: list[int]
) -> None:
    rows, whole = stored(tmp_path_factory.mktemp("tables"), frame)

    assert_same(in_chunks(rows, declared, cuts), validate(whole, declared))


@pytest.mark.parametrize(("kind", "kwargs"), ALL, ids=lambda value: value if isinstance(value, str) else "")
def test_each_expectation_says_the_same_of_bad_rows(tmp_path: Path, kind: str, kwargs: dict[str, Any]) -> None:
    random = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "name": np.where(random.random(60) < 0.9, random.choice(["a", "b", "zz"], 60), None),
            "size": np.where(random.random(60) < 0.9, random.choice([0.0, -0.0, 4.0, 9.0], 60), np.nan),
            "count": np.r_[random.integers(0, 4, 59), 7],
            "flag": random.random(60) < 0.5,
            "day": pd.Timestamp("2013-01-01", tz="UTC"),
        }
    )
    rows, whole = stored(tmp_path, frame)

    for severity in ("quarantine", "block"):
        declared = [expectation(kind, severity, **kwargs)]
        assert_same(in_chunks(rows, declared, [5, 6, 41]), validate(whole, declared))


def test_many_repeated_keys_are_looked_at_a_bounded_number_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_validation, "_KEYS_AT_ONCE", 70)
    monkeypatch.setattr(chunk_validation, "_SUSPECTS_AT_ONCE", 20)
    frame = pd.DataFrame({"name": [f"n{row % 150}" for row in range(400)], "size": [float(r % 7) for r in range(400)]})
    rows, whole = stored(tmp_path, frame)
    declared = [expectation("expect_column_values_to_be_unique", column="name")]

    assert_same(in_chunks(rows, declared, [100, 101, 300]), validate(whole, declared))


def verdicts_of_great_expectations(frame: pd.DataFrame, declared: list[Expectation]) -> list[tuple[bool, Any]]:
    """What Great Expectations' own front door says of all rows at once: met or not, and how many rows break it."""
    suite = gx.ExpectationSuite(
        "declared",
        expectations=[
            ExpectationConfiguration(type=each.type, kwargs=dict(each.kwargs), meta={"index": index}).to_domain_obj()
            for index, each in enumerate(declared)
        ],
    )
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.suites.add(suite)
    asset = context.data_sources.add_pandas("frame").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    found = {each.expectation_config.meta["index"]: each for each in batch.validate(suite).results}
    return [
        (
            bool(found[index].success),
            found[index].result.get("unexpected_count") if "element_count" in found[index].result else None,
        )
        for index in range(len(declared))
    ]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    frame=tables(),
    declared=expectations,
    cuts=st.lists(st.integers(0, 50), max_size=3),
    at_once=st.sampled_from([3, 16]),
)
def test_chunks_and_stretches_give_the_verdicts_of_great_expectations_front_door(
    tmp_path_factory: pytest.TempPathFactory,
    frame: pd.DataFrame,
    declared: list[Expectation],
    cuts: list[int],
    at_once: int,
) -> None:
    rows, whole = stored(tmp_path_factory.mktemp("tables"), frame)
    expected = verdicts_of_great_expectations(whole, declared)

    with mock.patch.object(checks, "_AT_ONCE", at_once):
        found = in_chunks(rows, declared, cuts).outcomes

    for outcome, (met, breaking) in zip(found, expected, strict=True):
        assert outcome.met == met, outcome
        if breaking is not None and outcome.checked and outcome.expectation.type not in checks.REPEATED_KEYS:
            assert outcome.failing == breaking, outcome


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Great Expectations' own, of conditions given as text
def test_a_repeated_key_under_a_condition_is_told_apart_in_chunks_too(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["a", "a", "b", "b", "c"], "size": [1.0, 1.0, 2.0, 3.0, 4.0]})
    rows, whole = stored(tmp_path, frame)
    declared = [
        expectation(
            "expect_column_values_to_be_unique",
            column="name",
            row_condition='col("size") > 0',
            condition_parser="great_expectations",
        )
    ]

    assert validate(whole, declared).rejected.tolist() == [1, 2, 3]
    assert_same(in_chunks(rows, declared, [1, 3]), validate(whole, declared))

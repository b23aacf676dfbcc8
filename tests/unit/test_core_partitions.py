from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.core import partitions
from mlops_provider.exceptions import MissingPartitionError

MONTHS = st.builds(lambda year, month: f"{year:04d}-{month:02d}", st.integers(2, 9998), st.integers(1, 12))


def test_a_month_is_its_own_answer() -> None:
    assert partitions.check("2013-01") == "2013-01"


@pytest.mark.parametrize("key", [None, ""])
def test_a_run_without_a_key_is_told_how_to_get_one(key: str | None) -> None:
    with pytest.raises(MissingPartitionError, match="trigger it with a partition key such as 2013-01"):
        partitions.check(key)


@pytest.mark.parametrize(
    "key", ["2013", "2013-13", "2013-00", "0000-01", "2013-1", "2013-01-01", "x", "\uff12\uff10\uff11\uff13-01"]
)
def test_a_key_that_is_no_month_is_refused(key: str) -> None:
    with pytest.raises(MissingPartitionError, match="is not a month"):
        partitions.check(key)


def test_months_cross_the_year() -> None:
    assert partitions.following("2013-12") == "2014-01"
    assert partitions.previous("2013-01") == "2012-12"
    assert partitions.previous("2013-03", 14) == "2012-01"


@given(MONTHS, st.integers(-12, 12))
def test_forth_and_back_is_where_it_began(key: str, count: int) -> None:
    assert partitions.previous(partitions.following(key, count), count) == key


@pytest.mark.parametrize(("key", "count"), [("9999-12", 1), ("0001-01", -1)])
def test_time_has_two_ends(key: str, count: int) -> None:
    with pytest.raises(ValueError, match="outside the years 1 to 9999"):
        partitions.following(key, count)


def test_between_holds_both_ends() -> None:
    assert partitions.between("2012-11", "2013-02") == ["2012-11", "2012-12", "2013-01", "2013-02"]
    assert partitions.between("2013-02", "2013-02") == ["2013-02"]
    assert partitions.between("2013-02", "2013-01") == []


def test_a_month_ends_where_the_next_begins() -> None:
    assert partitions.start("2013-02") == datetime(2013, 2, 1, tzinfo=UTC)
    assert partitions.end("2013-02") == partitions.start("2013-03")


def test_labels_are_known_some_days_after_the_end() -> None:
    assert partitions.labels_known_at("2013-12", 3) == datetime(2014, 1, 4, tzinfo=UTC)

"""A month the source spoiled: refused in words, nothing lost, and the same run goes through once it is mended."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.exceptions import DataRejectedError, MissingPartitionError, SourceError
from mlops_provider.steps import ingest
from support import soundness
from support.tiny import (
    BAD_FILES,
    BAD_FRAMES,
    FEBRUARY,
    JANUARY,
    MODEL,
    Place,
    ingest_month,
    ingest_months,
    origin,
    trips,
    with_bad_rows,
    write_month,
)

SAID = {
    "missing column": r"missing: rain",
    "missing key": r"missing: trip",
    "missing time": r"bus_delays 2013-01 is not what data.py:land expects \(KeyError",
    "wrong type": r"The distance is a number .* 600 of 600 rows break it",
    "no rows": r"The month has trips .* found 0, expected min value 1",
    "missing file": r"2013-01 cannot be read: .*No such file",
    "empty file": r"2013-01 .*EmptyDataError",
    "truncated file": r"2013-01 cannot be read: Compressed file ended",
    "damaged file": r"2013-01 cannot be read",
    "another format": r"2013-01 cannot be read: Not a gzipped file",
}
"""What a person has to learn from the message."""


def spoil(place: Place, month: str, fault: str) -> None:
    """Put a bad month in place of the good one."""
    file = write_month(place.source, month, BAD_FRAMES.get(fault, lambda frame: frame)(trips(month)))
    if fault in BAD_FILES:
        BAD_FILES[fault](file)


@pytest.mark.parametrize("fault", [*BAD_FRAMES, *BAD_FILES])
def test_a_bad_first_month_is_refused_in_words_and_goes_through_once_mended(place: Place, fault: str) -> None:
    spoil(place, JANUARY, fault)

    with pytest.raises((DataRejectedError, SourceError), match=SAID[fault]) as refused:
        ingest_month(place, JANUARY)

    assert any(advice in str(refused.value) for advice in ("Mend ", "Report: "))
    assert "far" not in str(refused.value).split(), "a value from the data is told"
    assert soundness.versions(place) == {}
    assert soundness.records(place, Kind.LANDING) == []

    write_month(place.source, JANUARY)
    ingest_month(place, JANUARY)

    assert {name for name, _ in soundness.contents(place)} == {Table.RAW, Table.CLEAN, Table.FEATURES}
    soundness.assert_nothing_broken(place)


def test_a_month_that_turns_bad_leaves_the_good_one_as_it_was(place: Place) -> None:
    ingest_months(place, JANUARY)
    contents, versions = soundness.contents(place), soundness.versions(place)

    for fault in ("missing column", "wrong type", "no rows", "truncated file"):
        spoil(place, JANUARY, fault)
        with pytest.raises((DataRejectedError, SourceError), match=SAID[fault]):
            ingest_month(place, JANUARY, run=f"again, {fault}")

    assert soundness.contents(place) == contents
    assert soundness.versions(place) == versions
    assert [one["passed"] for one in soundness.records(place, Kind.VALIDATION)] == [True, False, False, False]
    soundness.assert_nothing_broken(place)


def test_the_report_of_a_refused_month_says_what_was_found(place: Place) -> None:
    write_month(place.source, JANUARY, trips(JANUARY).drop(columns="rain"))

    with pytest.raises(DataRejectedError) as refused:
        ingest_month(place, JANUARY)

    page = place.stores().reports.read(str(refused.value).rpartition("Report: ")[2]).decode()
    assert "missing: rain" in page


def test_rows_that_came_twice_are_kept_once(place: Place) -> None:
    month = trips(JANUARY)
    contradicting = month.head(3).assign(rain=0.0)
    write_month(place.source, JANUARY, pd.concat([month, month.tail(20), contradicting]))

    ingest_month(place, JANUARY)

    clean, quarantined = _rows(place, Table.CLEAN), _rows(place, Table.QUARANTINE)
    assert sorted(clean["trip"]) == sorted(month["trip"][3:])
    assert len(quarantined) == 20 + 3 + 3
    assert set(quarantined[ingest.REASONS]) == {"A line runs a trip once"}
    soundness.assert_nothing_broken(place)


def test_two_percent_of_bad_rows_are_set_apart_and_return_once_mended(place: Place) -> None:
    write_month(place.source, JANUARY, with_bad_rows(trips(JANUARY)))
    ingest_month(place, JANUARY, run="first")
    assert (len(_rows(place, Table.CLEAN)), len(_rows(place, Table.QUARANTINE))) == (588, 12)
    assert set(_rows(place, Table.QUARANTINE)[ingest.REASONS]) == {"A trip covers 0 to 100 kilometres"}

    write_month(place.source, JANUARY)
    ingest_month(place, JANUARY, run="second")

    assert (len(_rows(place, Table.CLEAN)), len(_rows(place, Table.QUARANTINE))) == (600, 0)
    assert [one["quarantined"] for one in soundness.records(place, Kind.VALIDATION)] == [12, 0]
    soundness.assert_nothing_broken(place)


def test_a_month_of_mostly_bad_rows_goes_no_further_than_the_raw_table(place: Place) -> None:
    write_month(place.source, JANUARY, with_bad_rows(trips(JANUARY), share=0.2))

    with pytest.raises(DataRejectedError, match=r"120 of 600 rows break it \(20\.0%, at most 10\.0% may\)"):
        ingest_month(place, JANUARY)

    assert set(soundness.versions(place)) == {Table.RAW}
    write_month(place.source, JANUARY)
    ingest_month(place, JANUARY)
    assert len(_rows(place, Table.FEATURES)) == 600
    soundness.assert_nothing_broken(place)


def test_a_month_of_another_type_does_not_touch_the_months_before(place: Place) -> None:
    ingest_months(place, JANUARY)
    contents, versions = soundness.contents(place), soundness.versions(place)
    # No expectation is about the line; the table itself knows that it is text.
    write_month(place.source, FEBRUARY, trips(FEBRUARY).assign(line=7))

    with pytest.raises(DataRejectedError, match=r"'line' is int64 here and string in earlier partitions\. Mend"):
        ingest_month(place, FEBRUARY)

    assert soundness.contents(place) == contents
    assert soundness.versions(place) == versions
    ingest_months(place, FEBRUARY)
    soundness.assert_nothing_broken(place)


@pytest.mark.parametrize("key", [None, "", "2013-13", "2013-01-05", "January"])
def test_a_run_without_a_month_says_how_to_start_it(place: Place, key: str | None) -> None:
    with pytest.raises(MissingPartitionError, match="trigger .* such as 2013-01"):
        ingest.land(place.spec(), place.stores(), key, origin=origin("land_data"))

    assert not Path(place.folder, "tables").exists()


def _rows(place: Place, table: Table) -> pd.DataFrame:
    tables = place.stores().tables
    return tables.read(tables.uri(MODEL, table))

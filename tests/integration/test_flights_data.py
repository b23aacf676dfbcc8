"""The flight example's source: honest types, no hour of weather too late, and words for what is wrong with a file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mlops_provider.spec import load_spec
from support import flights as small_flights

pytestmark = pytest.mark.integration

SPEC = load_spec(small_flights.MODEL_YAML)
land, outcomes = SPEC.function("land"), SPEC.function("outcomes")


@pytest.fixture(scope="module")
def january() -> pd.DataFrame:
    return land("2013-01")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[pd.DataFrame], Path]:
    """Make a source of the given flights the one that is read."""

    def use(flights: pd.DataFrame) -> Path:
        folder = tmp_path / "source"
        small_flights.write_source(folder, flights)
        monkeypatch.setenv("FLIGHT_DELAYS_SOURCE", str(folder))
        return folder

    return use


def test_a_month_has_every_departure_of_the_source_once(january: pd.DataFrame) -> None:
    assert len(january) == 27_004
    assert not january.duplicated(list(SPEC.keys)).any()


def test_scheduled_departures_are_utc_also_where_the_clocks_change() -> None:
    march = land("2013-03")

    local = march["scheduled_departure"].dt.tz_convert("America/New_York")

    assert str(march["scheduled_departure"].dt.tz) == "UTC"
    assert (local.dt.hour == march["hour"]).all()
    assert (local.dt.strftime("%Y-%m-%d") == march["flight_date"]).all()
    offsets = (march["hour"] - march["scheduled_departure"].dt.hour) % 24
    assert set(offsets[march["flight_date"] < "2013-03-10"]) == {19}
    assert set(offsets[march["flight_date"] >= "2013-03-10"]) == {20}


def test_weather_is_that_of_the_hour_before(january: pd.DataFrame) -> None:
    weather = pd.read_csv(small_flights.original_folder() / "weather.csv")
    observed = weather.assign(at=pd.to_datetime(weather["time_hour"])).set_index(["origin", "at"])["temp"]

    some = january.sample(300, random_state=1)
    hour_before = some["scheduled_departure"].dt.floor("h") - pd.Timedelta(hours=1)
    expected = observed.reindex(pd.MultiIndex.from_arrays([some["origin"], hour_before]))

    assert some["temp"].reset_index(drop=True).equals(expected.reset_index(drop=True))


def test_types_are_the_same_in_months_with_and_without_gaps(
    january: pd.DataFrame, source: Callable[[pd.DataFrame], Path]
) -> None:
    complete = small_flights.two_days().dropna().astype({"arr_delay": "int64", "distance": "int64"})
    source(complete)

    without_gaps = land("2013-01")

    assert without_gaps.dtypes.to_dict() == january.dtypes.to_dict()
    assert january["tailnum"].isna().any()
    assert set(january["tailnum"].map(type)) == {str, type(None)}


def test_outcomes_are_late_beyond_fifteen_minutes_and_leave_out_who_did_not_arrive(january: pd.DataFrame) -> None:
    known = outcomes("2013-01")

    together = january.merge(known, on=list(SPEC.keys), how="left")

    assert list(known.columns) == [*SPEC.keys, "late"]
    assert (together["late"].isna() == together["arr_delay"].isna()).all()
    assert (together.loc[together["arr_delay"] == 15, "late"] == 0).all()
    assert (together.loc[together["arr_delay"] == 16, "late"] == 1).all()
    assert known["late"].mean() == pytest.approx(0.227, abs=0.001)


def test_the_labelled_fault_damages_its_month_only(january: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_DEMO_FAULT", "2013-01")

    damaged, other = land("2013-01"), land("2013-02")

    impossible = damaged["distance"] < 0
    assert impossible.mean() == pytest.approx(0.02, abs=0.003)
    assert damaged["distance"].abs().equals(january["distance"])
    assert damaged["temp"].equals(((january["temp"] - 32) * 5 / 9).round(2))
    untouched = [column for column in january if column not in ("temp", "distance")]
    assert damaged[untouched].equals(january[untouched])
    assert (other["distance"] > 0).all()


def test_a_damaged_month_is_damaged_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_DEMO_FAULT", "2013-01")

    assert land("2013-01").equals(land("2013-01"))


def test_a_month_that_is_not_there_has_no_rows_and_the_same_columns(january: pd.DataFrame) -> None:
    nothing = land("2014-02")

    assert len(nothing) == 0
    assert list(nothing.columns) == list(january.columns)


def test_a_truncated_zip_is_named(source: Callable[[pd.DataFrame], Path]) -> None:
    folder = source(small_flights.two_days())
    with zipfile.ZipFile(folder / "flights.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "flights.csv", "flights.csv")
    whole = (folder / "flights.csv.zip").read_bytes()
    (folder / "flights.csv.zip").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(EOFError, match=r"flights\.csv\.zip is truncated or not a zip"):
        land("2013-01")


def test_a_file_that_ends_inside_a_line_is_truncated(source: Callable[[pd.DataFrame], Path]) -> None:
    folder = source(small_flights.two_days())
    whole = (folder / "flights.csv").read_bytes()
    (folder / "flights.csv").write_bytes(whole[:-25])

    with pytest.raises(EOFError, match=r"flights\.csv ends in the middle of a line"):
        land("2013-01")


def test_a_file_that_is_not_there_is_named(source: Callable[[pd.DataFrame], Path]) -> None:
    (source(small_flights.two_days()) / "weather.csv").unlink()

    with pytest.raises(EOFError, match=r"weather\.csv is missing"):
        land("2013-01")


def test_columns_without_which_no_month_can_be_told_are_named(source: Callable[[pd.DataFrame], Path]) -> None:
    source(small_flights.two_days().drop(columns=["minute", "origin"]))

    with pytest.raises(EOFError, match="no column minute, origin"):
        land("2013-01")


def test_words_where_dates_should_be_are_named_without_showing_them(source: Callable[[pd.DataFrame], Path]) -> None:
    flights = small_flights.two_days().astype({"minute": "object"})
    flights.iloc[3, flights.columns.get_loc("minute")] = "a secret"
    source(flights)

    with pytest.raises(EOFError, match="whole numbers only in minute") as raised:
        land("2013-01")
    assert "secret" not in str(raised.value)

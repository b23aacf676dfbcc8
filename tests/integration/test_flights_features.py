"""The flight example's features: what was known at the scheduled departure, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from mlops_provider.spec import load_spec
from support import flights as small_flights

pytestmark = pytest.mark.integration

SPEC = load_spec(small_flights.MODEL_YAML)
land, features, landed = (SPEC.function(name) for name in ("land", "features", "history"))
MONTH_END = datetime(2013, 3, 1, 5, tzinfo=UTC)
AFTER_DEPARTURE = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
TAXI_MINUTES = 60
HISTORY = {
    "origin_delay_2h": (["origin"], 2),
    "origin_delay_6h": (["origin"], 6),
    "carrier_delay_4h": (["carrier"], 4),
    "carrier_origin_delay_6h": (["carrier", "origin"], 6),
}


@pytest.fixture(scope="module")
def january() -> pd.DataFrame:
    return land("2013-01")


@pytest.fixture(scope="module")
def february() -> pd.DataFrame:
    return land("2013-02")


@pytest.fixture(scope="module")
def described(january: pd.DataFrame, february: pd.DataFrame) -> pd.DataFrame:
    return features(february, landed(january), MONTH_END)


def landings(flights: pd.DataFrame) -> pd.Series:
    minutes = flights["dep_delay"] + flights["air_time"] + TAXI_MINUTES
    return flights["scheduled_departure"] + pd.to_timedelta(minutes, unit="min")


def some_positions(flights: pd.DataFrame, count: int) -> np.ndarray:
    """Positions of flights spread over the month, its first hours among them."""
    spread = np.random.default_rng(7).choice(len(flights), size=count - 5, replace=False)
    return np.concatenate([np.arange(5), spread])


def test_nothing_known_after_departure_enters(
    january: pd.DataFrame, february: pd.DataFrame, described: pd.DataFrame
) -> None:
    rng = np.random.default_rng(2013)
    landed_at = landings(february)

    for position in some_positions(february, 30):
        asked = february["scheduled_departure"].iloc[position]
        own = np.arange(len(february)) == position
        to_leave = (february["scheduled_departure"] >= asked).to_numpy()
        under_way = (landed_at >= asked).to_numpy() & ~to_leave
        nowhere_yet = february["air_time"].isna().to_numpy()
        changed = february.copy()
        # Whoever leaves later, and the flight itself: anything at all may become of them.
        anything = own | to_leave
        for column in AFTER_DEPARTURE:
            changed.loc[anything, column] = rng.normal(0, 500, anything.sum())
        # Whoever is in the air: lands late at any time from now on, or never.
        changed.loc[under_way, "arr_delay"] = rng.normal(0, 500, under_way.sum())
        changed.loc[under_way, "air_time"] += rng.exponential(100, under_way.sum())
        changed.loc[under_way & (rng.random(len(changed)) < 0.3), "arr_delay"] = np.nan
        # Whoever never arrived: did so after all, later.
        changed.loc[nowhere_yet & ~anything, ["dep_delay", "air_time", "arr_delay"]] = [1e6, 100.0, 300.0]

        again = features(changed, landed(january), MONTH_END)

        pd.testing.assert_series_equal(again.iloc[position], described.iloc[position])


def test_what_landed_in_time_does_enter(january: pd.DataFrame, february: pd.DataFrame, described: pd.DataFrame) -> None:
    position = 12_000
    asked, origin = february["scheduled_departure"].iloc[position], february["origin"].iloc[position]
    just_landed = landings(february).between(asked - pd.Timedelta(hours=2), asked, inclusive="left")
    changed = february.copy()
    changed.loc[just_landed & (february["origin"] == origin), "arr_delay"] += 10

    again = features(changed, landed(january), MONTH_END)

    assert again["origin_delay_2h"].iloc[position] == pytest.approx(described["origin_delay_2h"].iloc[position] + 10)


def test_history_is_what_a_slow_and_simple_count_gives(
    january: pd.DataFrame, february: pd.DataFrame, described: pd.DataFrame
) -> None:
    both = pd.concat([january, february], ignore_index=True)
    both = both[both["arr_delay"].notna()].assign(landed_at=landings(both))

    for position in some_positions(february, 40):
        flight = february.iloc[position]
        for name, (group, hours) in HISTORY.items():
            recent = both[(both["landed_at"] < flight["scheduled_departure"])]
            recent = recent[recent["landed_at"] >= flight["scheduled_departure"] - pd.Timedelta(hours=hours)]
            recent = recent[(recent[group] == flight[group]).all(axis=1)]
            expected = recent["arr_delay"].mean()
            assert described[name].iloc[position] == pytest.approx(expected, nan_ok=True), (position, name)


def test_a_single_flight_online_has_the_features_it_had_in_the_batch(
    january: pd.DataFrame, february: pd.DataFrame, described: pd.DataFrame
) -> None:
    for position in some_positions(february, 20):
        flight = february.iloc[[position]].drop(columns=AFTER_DEPARTURE)
        others = pd.concat([january, february.drop(index=february.index[position])])
        asked = flight["scheduled_departure"].iloc[0].to_pydatetime()

        online = features(flight, landed(others), asked)

        pd.testing.assert_series_equal(online.iloc[0], described.iloc[position], check_names=False)


def test_nothing_that_landed_after_as_of_is_used(january: pd.DataFrame, february: pd.DataFrame) -> None:
    as_of = datetime(2013, 2, 11, 17, tzinfo=UTC)
    known = february[landings(february) < as_of]
    later = february[february["scheduled_departure"] > as_of]

    with_all = features(later, landed(pd.concat([january, february])), as_of)
    with_known_only = features(later, landed(pd.concat([january, known])), as_of)

    pd.testing.assert_frame_equal(with_all, with_known_only)


def test_the_month_before_gives_the_first_hours_their_history(january: pd.DataFrame, february: pd.DataFrame) -> None:
    first = february.head(200)

    alone = features(first, landed(january.head(0)), MONTH_END)
    with_history = features(first, landed(january), MONTH_END)

    assert alone["origin_delay_6h"].isna().mean() > 0.5
    assert with_history["origin_delay_6h"].notna().all()


def test_rows_keep_their_order_and_number(february: pd.DataFrame, january: pd.DataFrame) -> None:
    shuffled = february.sample(frac=1, random_state=3)
    shuffled = pd.concat([shuffled, shuffled.head(3)])

    described = features(shuffled, landed(january), MONTH_END)

    keys = list(SPEC.keys)
    assert described[keys].to_numpy().tolist() == shuffled[keys].to_numpy().tolist()


def test_a_changed_unit_shows_as_an_impossible_dew_point_spread(february: pd.DataFrame, january: pd.DataFrame) -> None:
    celsius = february.assign(temp=(february["temp"] - 32) * 5 / 9)

    earlier = landed(january)
    honest, damaged = features(february, earlier, MONTH_END), features(celsius, earlier, MONTH_END)

    assert (honest["dewpoint_spread"].dropna() >= 0).all()
    assert (damaged["dewpoint_spread"].dropna() < 0).mean() > 0.9


def test_features_are_those_declared(described: pd.DataFrame) -> None:
    expected = {*SPEC.keys, SPEC.event_time, *SPEC.feature_columns}

    assert set(described.columns) == expected
    assert not set(AFTER_DEPARTURE) & set(described.columns)

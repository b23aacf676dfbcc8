"""
What is known about a flight at its scheduled departure.

One function serves training, batch and online scoring. Nothing in it looks past the scheduled departure: the recent
delays of an airport or a carrier come from flights that had landed by then.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd

from .data import EVENT_TIME, KEYS, LATE_AFTER_MINUTES  # noqa: TID252 - a use case is loaded as a package of its own

TIME_ZONE = "America/New_York"
AS_SCHEDULED = ["dest", "distance", "seats", "aircraft_year"]
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
KNOWN_ON_LANDING = [*KEYS, EVENT_TIME, "dep_delay", "air_time", "arr_delay"]

# From pushing back to lift-off and from touch-down to the gate, together; 19 of 20 flights need less. Fixed, because
# arrival times in the source are local to the destination and four destinations have no time zone.
TAXI = pd.Timedelta(minutes=60)

# Feature name → whose flights, which hours before the scheduled departure, what of them.
HISTORY = {
    "origin_delay_2h": (["origin"], 2, "arr_delay"),
    "origin_late_share_2h": (["origin"], 2, "late"),
    "origin_delay_6h": (["origin"], 6, "arr_delay"),
    "carrier_delay_4h": (["carrier"], 4, "arr_delay"),
    "carrier_late_share_4h": (["carrier"], 4, "late"),
    "carrier_origin_delay_6h": (["carrier", "origin"], 6, "arr_delay"),
}


def features(frame: pd.DataFrame, history: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """
    Return the features of flights, each as of its scheduled departure or *as_of*, whichever comes first.

    :param frame: Flights to describe, in the columns of ``land``, shape (n_flights, n_columns). What is only known
        after departure may be missing.
    :param history: Earlier flights, same columns; the day before the first of *frame* is enough. May be empty.
    :param as_of: Aware time; no landing after it is used.
    :return: Keys, event time and features, row by row as in *frame*, shape (n_flights, 25).
    """
    described = frame.reindex(columns=[*KEYS, EVENT_TIME, *AS_SCHEDULED, *WEATHER]).reset_index(drop=True)
    local = described[EVENT_TIME].dt.tz_convert(TIME_ZONE)
    described["hour"] = local.dt.hour + local.dt.minute / 60
    described["weekday"] = local.dt.dayofweek.astype("float64")
    described["aircraft_age"] = local.dt.year - described.pop("aircraft_year")
    # Air is never colder than its dew point: a negative spread means that a unit changed.
    described["dewpoint_spread"] = described["temp"] - described["dewp"]

    landings = _landings(frame, history)
    asked = np.minimum(
        described[EVENT_TIME].to_numpy("datetime64[us]"),
        np.datetime64(as_of.astimezone(UTC).replace(tzinfo=None), "us"),
    )
    for name, (group, hours, value) in HISTORY.items():
        described[name] = _recent_mean(landings, value, group, hours, described[group], asked)
    return described


def _landings(frame: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return the flights that arrived, in the order of their landing, with ``landed_at`` in UTC."""
    both = pd.concat([flights.reindex(columns=KNOWN_ON_LANDING) for flights in (history, frame) if len(flights)])
    arrived = both[both[["dep_delay", "air_time", "arr_delay"]].notna().all(axis=1)].drop_duplicates(KEYS)
    under_way = pd.to_timedelta(arrived["dep_delay"] + arrived["air_time"], unit="min") + TAXI
    # A flight can't have landed before it was to leave, whatever its record says: no flight is part of its own history.
    landed_at = arrived[EVENT_TIME] + under_way.clip(lower=pd.Timedelta(0))
    return arrived.assign(
        landed_at=landed_at.to_numpy("datetime64[us]"),
        late=(arrived["arr_delay"] > LATE_AFTER_MINUTES).astype("float64"),
    ).sort_values("landed_at", kind="stable")


def _recent_mean(
    landings: pd.DataFrame, value: str, group: list[str], hours: int, flights: pd.DataFrame, asked: np.ndarray
) -> np.ndarray:
    """Return, per flight, the mean of *value* over the landings of its group in the *hours* before *asked*, or NaN."""
    landed_at, values = landings["landed_at"].to_numpy(), landings[value].to_numpy()
    landings_of = landings.groupby(group).indices
    means = np.full(len(flights), np.nan)
    for member, rows in flights.groupby(group).indices.items():
        landed = landings_of.get(member)
        if landed is None:
            continue
        first = np.searchsorted(landed_at[landed], asked[rows] - np.timedelta64(hours, "h"), side="left")
        last = np.searchsorted(landed_at[landed], asked[rows], side="left")
        total = np.concatenate([[0.0], np.cumsum(values[landed])])
        count = last - first
        means[rows] = np.where(count > 0, (total[last] - total[first]) / np.maximum(count, 1), np.nan)
    return means

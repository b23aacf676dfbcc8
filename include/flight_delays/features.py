"""
What is known about a flight at its scheduled departure.

One function serves training, batch and online scoring. Nothing in it looks past the scheduled departure: the recent
delays of an airport or a carrier come from flights that had landed by then. Of those only counts and sums by minute are
kept, so that the days before take as much memory however many flights they had.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd

from .data import EVENT_TIME, KEYS, LATE_AFTER_MINUTES  # noqa: TID252 - a use case is loaded as a package of its own

TIME_ZONE = "America/New_York"
AS_SCHEDULED = ["dest", "distance", "seats", "aircraft_year"]
WEATHER = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
KNOWN_ON_LANDING = ["carrier", "origin", EVENT_TIME, "dep_delay", "air_time", "arr_delay"]
LANDED = ["landed_at", "carrier", "origin"]

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
    :param history: What `landings` gives for earlier flights; those of the day before the first of *frame* are enough.
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

    landed = landings(frame, history)
    asked = np.minimum(
        described[EVENT_TIME].to_numpy("datetime64[us]"),
        np.datetime64(as_of.astimezone(UTC).replace(tzinfo=None), "us"),
    )
    for name, (group, hours, value) in HISTORY.items():
        described[name] = _recent_mean(landed, value, group, hours, described[group], asked)
    return described


def landings(flights: pd.DataFrame, kept: pd.DataFrame | None = None) -> pd.DataFrame:
    """
    Return what later flights may learn of flights that landed: how many did, how late, by minute, carrier and origin.

    :param flights: Flights in the columns of ``land``, shape (n_flights, n_columns). May be empty.
    :param kept: What this function gave for others, to be added.
    :return: ``landed_at`` in UTC, ``carrier``, ``origin``, and the sums ``flights``, ``arr_delay`` (minutes) and
        ``late``, shape (n_groups, 6), in the order of landing.
    """
    known = flights.reindex(columns=KNOWN_ON_LANDING)
    arrived = known[known[["dep_delay", "air_time", "arr_delay"]].notna().all(axis=1)]
    under_way = pd.to_timedelta(arrived["dep_delay"] + arrived["air_time"], unit="min") + TAXI
    # A flight can't have landed before it was to leave, whatever its record says: no flight is part of its own history.
    landed_at = arrived[EVENT_TIME] + under_way.clip(lower=pd.Timedelta(0))
    landed = arrived[["carrier", "origin", "arr_delay"]].assign(
        landed_at=landed_at.to_numpy("datetime64[us]"),
        flights=1.0,
        late=(arrived["arr_delay"] > LATE_AFTER_MINUTES).astype("float64"),
    )
    both = [part for part in (kept, landed) if part is not None and len(part)] or [landed]
    sums = pd.concat(both).groupby(LANDED, dropna=False, as_index=False)
    return sums[["flights", "arr_delay", "late"]].sum()


def _recent_mean(
    landed: pd.DataFrame, value: str, group: list[str], hours: int, flights: pd.DataFrame, asked: np.ndarray
) -> np.ndarray:
    """Return, per flight, the mean of *value* over the landings of its group in the *hours* before *asked*, or NaN."""
    landed_at, count, values = (landed[name].to_numpy() for name in ("landed_at", "flights", value))
    landed_of = landed.groupby(group).indices
    means = np.full(len(flights), np.nan)
    for member, rows in flights.groupby(group).indices.items():
        own = landed_of.get(member)
        if own is None:
            continue
        first = np.searchsorted(landed_at[own], asked[rows] - np.timedelta64(hours, "h"), side="left")
        last = np.searchsorted(landed_at[own], asked[rows], side="left")
        counted, total = (np.concatenate([[0.0], np.cumsum(each[own])]) for each in (count, values))
        number = counted[last] - counted[first]
        means[rows] = np.where(number > 0, (total[last] - total[first]) / np.maximum(number, 1), np.nan)
    return means

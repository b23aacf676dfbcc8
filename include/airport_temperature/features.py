"""
What an airport's weather station knows at the full hour: what it measures now, and how that has changed.

One function serves training, batch and online scoring. Nothing in it looks past the hour it describes.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from .data import AHEAD, EVENT_TIME, KEYS, TIME_ZONE  # noqa: TID252 - a use case is loaded as a package of its own

MEASURED = ["temp", "dewp", "humid", "wind_speed", "wind_dir", "pressure", "precip", "visib"]
DAY = pd.Timedelta(days=1)

# Feature → what changed, since how many hours.
CHANGES = {
    "temp_change_1h": ("temp", 1),
    "temp_change_3h": ("temp", 3),
    "temp_change_6h": ("temp", 6),
    "temp_change_24h": ("temp", 24),
    "dewp_change_3h": ("dewp", 3),
    "pressure_change_3h": ("pressure", 3),
}


def features(frame: pd.DataFrame, history: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """
    Return the features of hours, one by one as in *frame*.

    :param frame: Hours to describe, in the columns of ``land``, shape (n_hours, 10).
    :param history: Earlier hours, same columns; the day before the first of *frame* is enough. May be empty.
    :param as_of: Not used: nothing is looked up after the hour that is described.
    :return: Keys and features, shape (n_hours, 19).
    """
    described = frame.reindex(columns=[*KEYS, *MEASURED]).reset_index(drop=True)
    local = described[EVENT_TIME].dt.tz_convert(TIME_ZONE)
    described["hour"] = local.dt.hour.astype("float64")
    # 0 at the winter solstice, 1 at the summer solstice: how long the sun warms.
    described["sun"] = (1 - np.cos(2 * np.pi * (local.dt.dayofyear + 10) / 365.25)) / 2

    known = pd.concat([hours for hours in (history, frame) if len(hours)] or [frame]).drop_duplicates(KEYS)
    known = known.set_index(KEYS)
    now = described[EVENT_TIME]
    for name, (measure, hours) in CHANGES.items():
        described[name] = described[measure] - _at(known[measure], described, now - pd.Timedelta(hours=hours))
    # By how much it warmed yesterday in the six hours that are asked about.
    before, after = _at(known["temp"], described, now - DAY), _at(known["temp"], described, now - DAY + AHEAD)
    described["warming_yesterday"] = after - before
    return described


def _at(measured: pd.Series, described: pd.DataFrame, times: pd.Series) -> np.ndarray:
    """Return what the airport of each row measured at *times*; NaN where nothing is known."""
    wanted = pd.MultiIndex.from_arrays([described["origin"], times], names=KEYS)
    return measured.reindex(wanted).to_numpy()

"""What is known about a trip when it starts."""

from __future__ import annotations

from datetime import datetime

import pandas as pd


def features(frame: pd.DataFrame, history: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """Return keys, event time and features; ``rain_before`` is the mean rain of the line's earlier month, or -1."""
    before = history.groupby("line")["rain"].mean() if len(history) else pd.Series(dtype="float64")
    known = frame[["trip", "started", "line", "distance", "rain"]]
    return known.assign(rain_before=known["line"].map(before).astype("float64").fillna(-1.0))

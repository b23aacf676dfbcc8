"""Bus trips, a gzipped CSV file per month in the folder that ``TINY_SOURCE`` names."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

LATE_AFTER_MINUTES = 5


def land(key: str) -> pd.DataFrame:
    """Return the month as its file has it."""
    trips = pd.read_csv(Path(os.environ["TINY_SOURCE"], f"{key}.csv.gz"))
    return trips.assign(started=pd.to_datetime(trips["started"], utc=True))


def outcomes(key: str) -> pd.DataFrame:
    """Return which trips ended late; a trip that never ended has no row."""
    trips = land(key).drop_duplicates(["line", "trip"])
    ended = trips[trips["delay"].notna()]
    late = (ended["delay"] > LATE_AFTER_MINUTES).astype("int64")
    return ended[["line", "trip"]].assign(late=late).reset_index(drop=True)

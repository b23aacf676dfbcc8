"""Predict many rows with a registered model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

PROBABILITY, VERSION, SCORED_BY = "probability", "version", "scored_by"
"""Columns of a predictions table beside keys and event time."""

_ROWS_AT_ONCE = 65_536
"""Keeps memory flat: one call on ten million rows takes over a gigabyte more."""


def predictions(
    model: Any,
    rows: pd.DataFrame,
    *,
    columns: Sequence[str],
    kept: Sequence[str],
    version: str,
    scored_by: str,
    threads: int,
) -> pd.DataFrame:
    """
    Predict every row.

    :param model: Has ``predict_proba``; class 1 is the positive one.
    :param rows: Features, shape (n_rows, n_columns).
    :param columns: Columns the model takes.
    :param kept: Columns of *rows* that the result repeats.
    :param threads: OpenMP threads at most: two tasks with a pool per core are slower than one after the other.
    :return: The kept columns, ``probability`` (0-1), ``version`` and ``scored_by``.
    """
    with threadpool_limits(limits=threads):
        parts = [
            model.predict_proba(rows[list(columns)].iloc[first : first + _ROWS_AT_ONCE])[:, 1]
            for first in range(0, len(rows), _ROWS_AT_ONCE)
        ]
    predicted = rows[list(kept)].copy()
    predicted[PROBABILITY] = np.concatenate(parts).astype("float64")
    predicted[VERSION], predicted[SCORED_BY] = version, scored_by
    return predicted

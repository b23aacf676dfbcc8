"""Predict many rows with a registered model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mlops_provider.adapters import tasks
from mlops_provider.adapters.segmented import Segmented

PREDICTION, VERSION, SCORED_BY = "prediction", "version", "scored_by"
"""Columns of a predictions table beside keys and event time."""

ANSWERED_BY = "answered_by"
"""A further one, if the model is made of segments: the segment whose own model answered, or "parent"."""

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

    :param model: A classifier, whose probability of class 1 is predicted, or a regressor.
    :param rows: Features, shape (n_rows, n_columns).
    :param columns: Columns the model takes.
    :param kept: Columns of *rows* that the result repeats.
    :param threads: OpenMP threads at most: two tasks with a pool per core are slower than one after the other.
    :return: The kept columns, ``prediction``, ``version`` and ``scored_by``; of a model of segments ``answered_by``.
    """
    task = tasks.of_model(model)
    with threadpool_limits(limits=threads):
        parts = [
            task.predict(model, rows[list(columns)].iloc[first : first + _ROWS_AT_ONCE])
            for first in range(0, len(rows), _ROWS_AT_ONCE)
        ]
    predicted = rows[list(kept)].copy()
    predicted[PREDICTION] = np.concatenate(parts).astype("float64")
    predicted[VERSION], predicted[SCORED_BY] = version, scored_by
    if (answered_by := who_answers(model)) is not None:
        predicted[ANSWERED_BY] = answered_by(rows[list(columns)])
    return predicted


def who_answers(model: Any) -> Callable[[pd.DataFrame], NDArray[Any]] | None:
    """What names the segment whose own model answers each row, (n_rows,); None of a model without segments."""
    return model.answered_by if isinstance(model, Segmented) else None

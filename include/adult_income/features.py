"""What is known about a person who is scored: education, work and means. Sex and race are kept for comparison only."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from .data import EVENT_TIME, KEYS  # noqa: TID252 - a use case is loaded as a package of its own

PROTECTED = ["sex", "race"]
AS_THEY_ARE = [
    "age",
    "workclass",
    "education",
    "education_num",
    "occupation",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
]


def features(frame: pd.DataFrame, history: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """
    Return the features of people, one by one as in *frame*.

    :param frame: People to describe, in the columns of ``land``, shape (n_people, n_columns).
    :param history: Not used: people are asked once.
    :param as_of: Not used: nothing here changes with time.
    :return: Key, event time, protected columns and features, shape (n_people, 12).
    """
    return frame.reindex(columns=[*KEYS, EVENT_TIME, *PROTECTED, *AS_THEY_ARE]).reset_index(drop=True)

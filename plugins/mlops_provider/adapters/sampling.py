"""A sample that is the same however its rows were cut into chunks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def bottom_k(frame: pd.DataFrame, keys: Sequence[str], rows: int, *, seed: int) -> pd.DataFrame:
    """
    Take the *rows* rows whose keys have the smallest hashes, smallest first: a uniform sample without replacement.

    The sample of a whole is the sample of its chunks' samples put together. (Bottom-k sampling: Cohen and Kaplan,
    "Summarizing data using bottom-k sketches", PODC 2007.)

    :param keys: Columns that tell rows apart.
    :param seed: Another seed gives another sample.
    """
    order = np.argsort(_hashes(frame[list(keys)], seed), kind="stable")[:rows]
    return frame.iloc[order].reset_index(drop=True)


def _hashes(keys: pd.DataFrame, seed: int) -> NDArray[np.uint64]:
    """Mix pandas' hash of each row with the seed, as SplitMix64 does (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = np.asarray(pd.util.hash_pandas_object(keys, index=False), dtype="uint64")
    mixed = mixed + np.uint64(_GOLDEN * (seed + 1) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype="uint64")

"""Predict many rows, block by block."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    import pyarrow as pa

    from mlops_provider.adapters.scorers import Scorer

PREDICTION, VERSION, SCORED_BY = "prediction", "version", "scored_by"
"""Columns of a predictions table beside keys and event time."""

ANSWERED_BY = "answered_by"
"""A further one, if the model is made of segments: the segment whose own model answered, or "parent"."""

ROWS_AT_ONCE = 65_536
"""Rows of a block: keeps memory flat, and what is computed in the processor's cache."""


def predictions(scorer: Scorer, blocks: Iterable[pa.Table], *, threads: int) -> NDArray[np.float64]:
    """
    Predict every row. Blocks are read in turn, while those before them are encoded and predicted.

    :param blocks: Rows with the columns that the scorer takes.
    :param threads: Blocks that are predicted at once, each by one thread.
    :return: Shape (n_rows,), in the order of the rows.
    :raises ValueError: The model does not take a value that is there.
    """
    found: list[NDArray[np.float64]] = []
    waiting: deque[Future[Any]] = deque()
    # OpenMP keeps its limit per thread: it is set in each thread of the pool.
    with ThreadPoolExecutor(threads, initializer=threadpool_limits, initargs=(1,)) as pool:
        for block in blocks:
            waiting.append(pool.submit(scorer.predict_table, block))
            if len(waiting) > threads:
                found.append(waiting.popleft().result())
        found += [each.result() for each in waiting]
    return np.concatenate([np.empty(0), *found])

"""What features are given of the rows before theirs: the rows, or what the use case keeps of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mlops_provider.adapters import features as feature_frames
from mlops_provider.exceptions import DataRejectedError
from mlops_provider.steps.source import calling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlops_provider.spec import ModelSpec


def gathered(spec: ModelSpec, parts: Iterable[pd.DataFrame], *, at_most: int | None = None) -> pd.DataFrame:
    """
    Give what ``features`` gets as its history.

    :param parts: Earlier rows, some after the others; at least one frame, which may be empty. ``functions.history``
        looks at each once, then it is gone.
    :param at_most: Rows that ``functions.history`` may keep of all.
    :return: What it kept; without it all rows.
    :raises DataRejectedError: It keeps more. Not retried.
    :raises SpecError: It failed, or gave no frame. Not retried.
    """
    if spec.functions.history is None:
        frames = list(parts)
        there = [frame for frame in frames if len(frame)]
        return pd.concat(there, ignore_index=True) if there else frames[0]
    keep, kept, looked_at = spec.function("history"), None, 0
    for rows in parts:
        with calling(spec, "history"):
            kept = feature_frames.frame_of(keep(rows, kept), spec.functions.history)
        looked_at += len(rows)
        if at_most is not None and len(kept) > at_most:
            raise DataRejectedError(
                f"{spec.functions.history} keeps {len(kept):,} rows of the first {looked_at:,} that {spec.name} looks "
                f"back on, more than a chunk may have ({at_most:,}). Keep sums instead, such as one row per group and "
                f"minute, or raise chunk_rows in {spec.path.name}."
            )
    if kept is None:
        raise ValueError("no frame to gather a history from")
    return kept

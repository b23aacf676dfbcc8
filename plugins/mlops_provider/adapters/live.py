"""How much worse a version predicts than another one, by the same metrics as at the gate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mlops_provider.adapters.evaluation import resampled_weights
from mlops_provider.adapters.tasks.base import Floats, Task
from mlops_provider.core.metrics import DIRECTIONS
from mlops_provider.core.performance import Estimate, Performance


def performance(rows: pd.DataFrame, metric: str, *, task: Task, resamples: int, seed: int) -> Performance:
    """
    Score the labelled predictions of two versions, and the difference with its standard error.

    Whole requests are resampled, by which versions are chosen, and both versions are scored on each resample: rows that
    both predicted count as pairs, others as two samples. The standard errors are those of the bootstrap. (Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 8; Field and Welsh, "Bootstrapping clustered
    data", 2007.)

    :param rows: ``request_id``, ``outcome``, ``candidate`` and ``champion`` (what each predicted, NaN where it did not)
        and ``compared`` (whether callers met both at that time), (n_rows, …).
    """
    candidate, champion = rows["candidate"].notna().to_numpy(), rows["champion"].notna().to_numpy()
    met = rows["compared"].to_numpy(dtype=bool)
    labels, theirs = int(candidate.sum()), int((champion & met).sum()) if met.any() else None
    requests = np.asarray(pd.factorize(rows["request_id"])[0], dtype=np.intp)
    if len(np.unique(requests)) < 2:
        return Performance(labels, theirs)
    outcomes = rows["outcome"].to_numpy(dtype=np.float64)
    chosen = {
        "all": ("candidate", candidate),
        "ours": ("candidate", candidate & met),
        "theirs": ("champion", champion & met),
    }
    scored = {
        name: task.scored(rows[column].to_numpy(dtype=np.float64), outcomes, (metric,), np.flatnonzero(wanted))
        for name, (column, wanted) in chosen.items()
        if wanted.any()
    }
    parts: dict[str, list[Floats]] = {name: [] for name in scored}
    for weights in resampled_weights(len(rows), resamples, seed, requests):
        for name, each in scored.items():
            parts[name].append(each.draw(weights)[metric])
    draws = {name: np.concatenate(found) for name, found in parts.items()}
    worse = (draws["theirs"] - draws["ours"]) * DIRECTIONS[metric] if {"ours", "theirs"} <= draws.keys() else None
    defined = worse is not None and np.isfinite(worse[0])
    return Performance(
        labels,
        theirs,
        score=_estimate(draws.get("all")),
        champion=float(draws["theirs"][0]) if defined else None,
        worse=_estimate(worse),
    )


def _estimate(draws: Floats | None) -> Estimate | None:
    """The value on the rows themselves, which come first, and its standard error; None where it is undefined."""
    if draws is None or not np.isfinite(draws[0]):
        return None
    resampled = draws[1:][np.isfinite(draws[1:])]
    return Estimate(float(draws[0]), float(resampled.std(ddof=1))) if len(resampled) > 1 else None

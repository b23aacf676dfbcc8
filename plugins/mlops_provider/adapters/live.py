"""How much worse a version predicts than another one, by the same metrics as at the gate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mlops_provider.adapters import scoring
from mlops_provider.adapters.evaluation import resampled_weights
from mlops_provider.adapters.tasks.base import Floats, Task
from mlops_provider.core.metrics import DIRECTIONS
from mlops_provider.core.performance import Estimate, Met, Performance, Scored
from mlops_provider.core.readings import KEPT_ROWS

MOST = 20_000
"""Labelled rows of a version that are scored; more would narrow nothing that matters."""


def performance(
    now: pd.DataFrame,
    met: pd.DataFrame | None,
    versions: tuple[str, str | None],
    metric: str,
    *,
    task: Task,
    resamples: int,
    seed: int,
) -> Performance:
    """
    Score the labelled predictions of two versions, and the difference with its standard error.

    Whole requests are resampled, by which versions are chosen, and both versions are scored on each resample: rows that
    both predicted count as pairs, others as two samples. The standard errors are those of the bootstrap. (Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 8; Field and Welsh, "Bootstrapping clustered
    data", 2007.)

    :param now: ``request_id``, ``row``, ``version``, ``prediction`` and ``outcome`` in the present step, (n_rows, …).
    :param met: The same in the newest step in which callers met both; None if they never did.
    :param versions: The version on trial, and the champion.
    """
    ours, theirs = versions
    chosen = {} if met is now else {"now": _sample(now, ours)}
    if met is not None:
        chosen |= {"ours": _sample(met, ours), "theirs": _sample(met, theirs)}
    rows = pd.concat(list(chosen.values()), ignore_index=True)
    ends = np.cumsum([len(part) for part in chosen.values()])
    places = dict(zip(chosen, np.split(np.arange(len(rows)), ends[:-1]), strict=True))
    requests = np.asarray(pd.factorize(rows["request_id"])[0], dtype=np.intp)
    predictions, outcomes = (rows[name].to_numpy(dtype=np.float64) for name in (scoring.PREDICTION, "outcome"))
    scored = {
        name: task.scored(predictions, outcomes, (metric,), place)
        for name, place in places.items()
        if len(np.unique(requests[place])) > 1
    }
    parts: dict[str, list[Floats]] = {name: [] for name in scored}
    for weights in resampled_weights(len(rows), resamples, seed, requests) if scored else ():
        for name, each in scored.items():
            parts[name].append(each.draw(weights)[metric])
    draws = {name: np.concatenate(found) for name, found in parts.items()}
    found = {
        name: Scored(len(place), _estimate(draws.get(name)), _rarer(outcomes[place], task))
        for name, place in places.items()
    }
    if met is None:
        return Performance(found["now"])
    worse = (draws["theirs"] - draws["ours"]) * DIRECTIONS[metric] if {"ours", "theirs"} <= draws.keys() else None
    return Performance(found["ours" if met is now else "now"], Met(found["ours"], found["theirs"], _estimate(worse)))


def _sample(rows: pd.DataFrame, version: str | None) -> pd.DataFrame:
    """
    The rows of a version, at most `KEPT_ROWS` of a request and `MOST` in all, spread over the whole step.

    The newest would be of another time than those of a version that gets more requests, or fewer. Requests are chosen
    by a hash of their names, so pairs stay pairs.
    """
    found = rows[rows[scoring.VERSION] == version].sort_values(["request_id", "row"])
    of = found.groupby("request_id")["row"]
    found = found[of.cumcount() % -(-of.transform("size") // KEPT_ROWS) == 0]
    order = np.argsort(pd.util.hash_array(found["request_id"].to_numpy(dtype=object)), kind="stable")
    return found.iloc[np.sort(order[:MOST])]


def _rarer(outcomes: Floats, task: Task) -> int | None:
    """How many outcomes are of the rarest class; None of numbers."""
    return min((int((outcomes == each).sum()) for each in task.classes), default=None)


def _estimate(draws: Floats | None) -> Estimate | None:
    """The value on the rows themselves, which come first, and its standard error; None where it is undefined."""
    if draws is None or not np.isfinite(draws[0]):
        return None
    resampled = draws[1:][np.isfinite(draws[1:])]
    return Estimate(float(draws[0]), float(resampled.std(ddof=1))) if len(resampled) > 1 else None

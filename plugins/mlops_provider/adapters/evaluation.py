"""Score predictions against outcomes, with bootstrap intervals that all contenders share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mlops_provider.adapters import tasks
from mlops_provider.adapters.fairness import GroupRows, disparities, group_scores, groups_of
from mlops_provider.adapters.tasks.base import Draws, Floats, Rows, Scored, Task
from mlops_provider.core.evaluation import CANDIDATE, Comparison, SliceScore
from mlops_provider.core.fairness import Disparity, FairnessLimit, GroupScore
from mlops_provider.core.metrics import DIRECTIONS, Interval
from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import DataRejectedError

_CELLS_AT_ONCE = 1_000_000  # weights held in memory at a time; 8 MB as float64, so that a chunk stays near the caches

UNITS: Mapping[str, str] = {"hour": "h", "day": "D", "week": "W"}
"""Blocks of time, by pandas' names for them."""


@dataclass(frozen=True, slots=True)
class CalibrationBin(Payload):
    """Rows of similar predictions: their means, predicted and observed, in units of the target (0-1 if binary)."""

    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Scores:
    """
    What `evaluate` measured, contender by contender, on the same rows and the same resamples.

    :param blocks: Blocks that were drawn as a whole; None if single rows were.
    :param groups: The subject on each group of each protected attribute.
    :param residuals: Errors of the subject summed up; empty where that says nothing.
    """

    rows: int
    metrics: Mapping[str, Mapping[str, Interval]]
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceScore, ...]
    calibration: tuple[CalibrationBin, ...]
    blocks: int | None
    groups: tuple[GroupScore, ...]
    disparities: tuple[Disparity, ...]
    residuals: Mapping[str, float]


def blocks_of(frame: pd.DataFrame, block: str | None, *, event_time: str, time_zone: str) -> NDArray[np.intp] | None:
    """
    Number the blocks that rows are resampled in.

    :param frame: Event time, and the column that *block* may name, (n_rows, …).
    :param block: "hour", "day" or "week" of the event time, in *time_zone*; or a column; None for single rows.
    :return: The number of each row's block, from 0, (n_rows,).
    """
    if block is None:
        return None
    if block in UNITS:
        local = frame[event_time].dt.tz_convert(time_zone).dt.tz_localize(None)
        named: pd.Series = local.dt.to_period(UNITS[block])
    else:
        named = frame[block]
    return np.asarray(pd.factorize(named, use_na_sentinel=False)[0], dtype=np.intp)


def resampled_weights(rows: int, resamples: int, seed: int, blocks: NDArray[np.intp] | None = None) -> Iterator[Floats]:
    """
    Give how often each row counts, a chunk of draws at a time, each chunk (n_draws, rows).

    The first draw counts every row once; the others are multinomial resamples, of the rows (the ordinary bootstrap of
    Efron) or of whole *blocks*. The latter is the cluster bootstrap of Field and Welsh, "Bootstrapping clustered data"
    (2007); with days or weeks as blocks it is the non-overlapping block bootstrap of Carlstein (1986), a relative of
    Künsch's (1989). Draw number b depends on the seed and b only, so that more resamples extend a series and never
    change it.

    :param blocks: Number of each row's block, from 0 without a gap, (n_rows,).
    """
    units = rows if blocks is None else int(blocks.max(initial=-1)) + 1
    at_once = max(1, _CELLS_AT_ONCE // max(rows, 1))
    for first in range(0, resamples + 1, at_once):
        numbers = range(first, min(first + at_once, resamples + 1))
        chunk = np.empty((len(numbers), rows))
        for position, number in enumerate(numbers):
            if number == 0:
                chunk[position] = 1.0
                continue
            picked = np.random.default_rng([seed, number]).integers(units, size=units)
            counts = np.bincount(picked, minlength=units)
            chunk[position] = counts if blocks is None else counts[blocks]
        yield chunk


def evaluate(
    predictions: Mapping[str, ArrayLike],
    outcomes: ArrayLike,
    frame: pd.DataFrame,
    *,
    slices: Sequence[str],
    slice_metric: str,
    resamples: int,
    confidence: float,
    seed: int,
    subject: str = CANDIDATE,
    task: Task = tasks.BINARY,
    metrics: Sequence[str] | None = None,
    blocks: ArrayLike | None = None,
    protected: Sequence[str] = (),
    primary: str | None = None,
    fairness: Sequence[FairnessLimit] = (),
) -> Scores:
    """
    Score every contender on the same rows and the same bootstrap resamples, so that differences are paired.

    :param predictions: What each contender predicted, as *task* predicts, each (n_rows,).
    :param outcomes: What happened, (n_rows,).
    :param frame: Columns that *slices* and *protected* name, (n_rows, …).
    :param confidence: Share of resamples inside an interval, 0-1.
    :param subject: The contender that is compared with each other one, and scored by slice and group.
    :param metrics: Metrics to measure; every one of *task* if left out.
    :param blocks: Which block a row belongs to, (n_rows,); blocks are resampled as a whole. None: single rows are.
    :param protected: Columns that name groups of people.
    :param primary: Metric that is also measured for each group.
    :param fairness: Limits whose smallest group sets which groups are compared.
    :raises DataRejectedError: Outcomes that no model can be judged on, a prediction that is NaN, or a single block.
        Not retried.
    """
    columns, labels = _checked(predictions, outcomes, task)
    metrics = task.about.metrics if metrics is None else tuple(metrics)
    drawn = _numbered(blocks)
    scored: dict[object, Scored] = {name: task.scored(values, labels, metrics) for name, values in columns.items()}
    parts = list(_slice_rows(frame, slices))
    for column, value, positions in parts:
        scored[(column, value)] = task.scored(columns[subject], labels, (slice_metric,), positions)
    groups = groups_of(frame, protected)
    for group in groups:
        scored[group.rates_key] = task.rates(columns[subject], labels, group.rows)
        if primary is not None:
            scored[group.primary_key] = task.scored(columns[subject], labels, (primary,), group.rows)

    draws = _bootstrap(scored, rows=len(labels), resamples=resamples, seed=seed, blocks=drawn)

    comparisons = []
    for name in columns:
        for metric in metrics if name != subject else ():
            difference = (draws[subject][metric] - draws[name][metric]) * DIRECTIONS[metric]
            if (interval := interval_of(difference, confidence)) is not None:
                comparisons.append(Comparison(opponent=name, metric=metric, difference=interval))
    slice_scores = []
    for column, value, positions in parts:
        if (interval := interval_of(draws[(column, value)][slice_metric], confidence)) is not None:
            slice_scores.append(
                SliceScore(column=column, value=value, rows=len(positions), metric=slice_metric, score=interval)
            )
    by_group: dict[GroupRows, Draws] = {
        group: {**draws.get(group.primary_key, {}), **draws[group.rates_key]} for group in groups
    }
    return Scores(
        rows=len(labels),
        metrics={name: _intervals(draws[name], confidence) for name in columns},
        comparisons=tuple(comparisons),
        slices=tuple(slice_scores),
        calibration=calibration(columns[subject], labels),
        blocks=None if drawn is None else int(drawn.max()) + 1,
        groups=group_scores(by_group, lambda values: interval_of(values, confidence)),
        disparities=disparities(by_group, task.about, fairness, lambda values: interval_of(values, confidence)),
        residuals=task.residuals(columns[subject], labels),
    )


def score(metric: str, predictions: ArrayLike, outcomes: ArrayLike, *, task: Task = tasks.BINARY) -> float:
    """Score predictions once, without an interval; raises as `evaluate` does."""
    columns, labels = _checked({"predictions": predictions}, outcomes, task)
    return float(task.scored(columns["predictions"], labels, (metric,)).draw(np.ones((1, len(labels))))[metric][0])


def calibration(predictions: ArrayLike, outcomes: ArrayLike, *, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Compare predicted and observed means in *bins* groups of about equally many rows, by rising prediction."""
    values = np.asarray(predictions, dtype=np.float64)
    labels = np.asarray(outcomes, dtype=np.float64)
    groups = (part for part in np.array_split(np.argsort(values, kind="stable"), bins) if len(part))
    return tuple(CalibrationBin(len(part), float(values[part].mean()), float(labels[part].mean())) for part in groups)


def interval_of(draws: Floats, confidence: float) -> Interval | None:
    """Percentile interval; None where the rows themselves leave the metric undefined (a single class)."""
    if not np.isfinite(draws[0]):
        return None
    defined = draws[1:][np.isfinite(draws[1:])]
    if not len(defined):
        return Interval(float(draws[0]), float(draws[0]), float(draws[0]))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(draws[0]), float(low), float(high))


def _intervals(draws: Draws, confidence: float) -> dict[str, Interval]:
    measured = {metric: interval_of(values, confidence) for metric, values in draws.items()}
    return {metric: interval for metric, interval in measured.items() if interval is not None}


def _bootstrap(
    columns: Mapping[object, Scored], *, rows: int, resamples: int, seed: int, blocks: NDArray[np.intp] | None
) -> dict[object, Draws]:
    """Score every column on every draw; the first value of each is that of the rows themselves."""
    parts: dict[object, list[Draws]] = {name: [] for name in columns}
    for weights in resampled_weights(rows, resamples, seed, blocks):
        for name, column in columns.items():
            parts[name].append(column.draw(weights))
    return {
        name: {metric: np.concatenate([draws[metric] for draws in drawn]) for metric in columns[name].metrics}
        for name, drawn in parts.items()
    }


def _numbered(blocks: ArrayLike | None) -> NDArray[np.intp] | None:
    """Number blocks without a gap: these rows may be a part of those that were numbered."""
    if blocks is None:
        return None
    names, numbers = np.unique(np.asarray(blocks), return_inverse=True)
    if len(names) < 2:
        raise DataRejectedError(
            f"{len(names)} block(s) to resample: every draw would be the same rows. Declare smaller blocks."
        )
    return np.asarray(numbers, dtype=np.intp)


def _slice_rows(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[str, str, Rows]]:
    for column in columns:
        for value, positions in frame.groupby(column, observed=True, dropna=False).indices.items():
            yield column, str(value), np.asarray(positions, dtype=np.intp)


def _checked(predictions: Mapping[str, ArrayLike], outcomes: ArrayLike, task: Task) -> tuple[dict[str, Floats], Floats]:
    labels = np.asarray(outcomes, dtype=np.float64)
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in predictions.items()}
    for name, values in columns.items():
        if values.shape != labels.shape:
            raise ValueError(f"{name}: {values.shape[0]} predictions for {labels.shape[0]} outcomes.")
        if not np.isfinite(values).all():
            raise DataRejectedError(
                f"{name}: {int((~np.isfinite(values)).sum())} of {len(values)} predictions are NaN."
            )
    task.require_scorable(labels)
    return columns, labels

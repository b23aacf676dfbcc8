"""Score predictions against outcomes, with bootstrap intervals that all contenders share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mlops_provider.core.evaluation import CANDIDATE, Comparison, SliceScore
from mlops_provider.core.metrics import DIRECTIONS, Interval
from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import DataRejectedError

METRICS = tuple(DIRECTIONS)
"""Every metric this package knows. Those of predicted classes call a probability above 0.5 positive."""

_RANKED = frozenset({"roc_auc", "average_precision"})
_LOSSES = frozenset({"brier", "log_loss"})
_CELLS_AT_ONCE = 1_000_000  # weights held in memory at a time; 8 MB as float64, so that a chunk stays near the caches

Floats = NDArray[np.float64]
Draws = dict[str, Floats]  # metric -> (1 + resamples,); the first value is that of the rows themselves


@dataclass(frozen=True, slots=True)
class CalibrationBin(Payload):
    """Rows of similar predicted probability: what was promised, what happened (both 0-1)."""

    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What `evaluate` measured, contender by contender, on the same rows and the same resamples."""

    rows: int
    metrics: Mapping[str, Mapping[str, Interval]]
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceScore, ...]
    calibration: tuple[CalibrationBin, ...]


class _Scored:
    """
    One column of predictions, prepared for many weightings of its rows.

    ROC AUC and average precision follow Fawcett, "An introduction to ROC analysis" (2006): rows are sorted by falling
    score once, and each weighting then needs cumulative sums only, read where a group of equal scores ends.

    :param rows: Positions of the rows that count, or all when None.
    """

    def __init__(
        self, probabilities: Floats, outcomes: Floats, metrics: Sequence[str], rows: NDArray[np.intp] | None = None
    ) -> None:
        scores = probabilities if rows is None else probabilities[rows]
        labels = outcomes if rows is None else outcomes[rows]
        falling = np.argsort(-scores, kind="stable")
        self.order = falling if rows is None else rows[falling]
        self.scores = scores[falling]
        self.labels = labels[falling]
        self.metrics = tuple(metrics)
        changes = np.flatnonzero(np.diff(self.scores)) if len(scores) else np.empty(0, dtype=np.intp)
        ends = np.append(changes, len(scores) - 1)
        self.ends = None if len(ends) == len(scores) else ends  # None: no two scores are equal

    def draw(self, weights: Floats) -> Draws:
        """
        Score the rows once per weighting.

        :param weights: How often each row counts, (n_draws, n_rows).
        :return: Per metric (n_draws,); NaN where it is undefined, such as ROC AUC of one class.
        """
        weights = np.take(weights, self.order, axis=1)
        results: Draws = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            if _RANKED.intersection(self.metrics):
                results |= self._ranked(weights)
            for metric in _LOSSES.intersection(self.metrics):
                results[metric] = weights @ self._losses(metric) / weights.sum(axis=1)
            if set(self.metrics) - _RANKED - _LOSSES:
                results |= self._classified(weights)
        return {metric: results[metric] for metric in self.metrics}

    def _ranked(self, weights: Floats) -> Draws:
        true_positives = np.cumsum(weights * self.labels, axis=1)
        counted = np.cumsum(weights, axis=1)
        if self.ends is not None:
            true_positives, counted = true_positives[:, self.ends], counted[:, self.ends]
        positives = true_positives[:, -1]
        negatives = counted[:, -1] - positives
        gained = np.diff(true_positives, axis=1, prepend=0.0)
        results: Draws = {}
        if "roc_auc" in self.metrics:
            false_positives = counted - true_positives
            width = np.diff(false_positives, axis=1, prepend=0.0)
            area = np.einsum("ij,ij->i", width, true_positives - gained / 2)
            results["roc_auc"] = area / (positives * negatives)
        if "average_precision" in self.metrics:
            precision = true_positives / np.maximum(counted, 1.0)
            results["average_precision"] = np.einsum("ij,ij->i", gained, precision) / positives
        return results

    def _losses(self, metric: str) -> Floats:
        if metric == "brier":
            return np.asarray((self.scores - self.labels) ** 2)
        tiny = np.finfo(np.float64).eps
        promised = np.where(self.labels == 1, self.scores, 1 - self.scores)
        return np.asarray(-np.log(np.clip(promised, tiny, 1 - tiny)))

    def _classified(self, weights: Floats) -> Draws:
        called = self.scores > 0.5
        happened = self.labels == 1
        cells = np.stack([called & happened, called & ~happened, ~called & happened, ~called & ~happened], axis=1)
        tp, fp, fn, tn = (weights @ cells.astype(np.float64)).T
        return {
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "balanced_accuracy": (tp / (tp + fn) + tn / (tn + fp)) / 2,
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
        }


def resampled_weights(rows: int, resamples: int, seed: int) -> Iterator[Floats]:
    """
    Give how often each row counts, a chunk of draws at a time, each chunk (n_draws, rows).

    The first draw counts every row once; the others are multinomial resamples (the ordinary bootstrap of Efron).
    Draw number b depends on the seed and b only, so that more resamples extend a series and never change it.
    """
    at_once = max(1, _CELLS_AT_ONCE // max(rows, 1))
    for first in range(0, resamples + 1, at_once):
        numbers = range(first, min(first + at_once, resamples + 1))
        chunk = np.empty((len(numbers), rows))
        for position, number in enumerate(numbers):
            if number == 0:
                chunk[position] = 1.0
            else:
                picked = np.random.default_rng([seed, number]).integers(rows, size=rows)
                chunk[position] = np.bincount(picked, minlength=rows)
        yield chunk


def _bootstrap(columns: Mapping[object, _Scored], *, rows: int, resamples: int, seed: int) -> dict[object, Draws]:
    parts: dict[object, list[Draws]] = {name: [] for name in columns}
    for weights in resampled_weights(rows, resamples, seed):
        for name, column in columns.items():
            parts[name].append(column.draw(weights))
    return {
        name: {metric: np.concatenate([draws[metric] for draws in drawn]) for metric in columns[name].metrics}
        for name, drawn in parts.items()
    }


def _interval(draws: Floats, confidence: float) -> Interval | None:
    """Percentile interval; None where the rows themselves leave the metric undefined (a single class)."""
    if not np.isfinite(draws[0]):
        return None
    defined = draws[1:][np.isfinite(draws[1:])]
    if not len(defined):
        return Interval(float(draws[0]), float(draws[0]), float(draws[0]))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(draws[0]), float(low), float(high))


def _slice_rows(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[str, str, NDArray[np.intp]]]:
    for column in columns:
        for value, positions in frame.groupby(column, observed=True, dropna=False).indices.items():
            yield column, str(value), np.asarray(positions, dtype=np.intp)


def _checked(probabilities: Mapping[str, ArrayLike], outcomes: ArrayLike) -> tuple[dict[str, Floats], Floats]:
    labels = np.asarray(outcomes, dtype=np.float64)
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in probabilities.items()}
    for name, values in columns.items():
        if values.shape != labels.shape:
            raise ValueError(f"{name}: {values.shape[0]} predictions for {labels.shape[0]} outcomes.")
        if not np.isfinite(values).all():
            raise DataRejectedError(
                f"{name}: {int((~np.isfinite(values)).sum())} of {len(values)} predictions are NaN."
            )
    classes = np.unique(labels)
    if not np.array_equal(classes, [0.0, 1.0]):
        raise DataRejectedError(
            f"{len(labels)} labelled rows with {len(classes)} class(es): both 0 and 1 are needed to score a model."
        )
    return columns, labels


def evaluate(
    probabilities: Mapping[str, ArrayLike],
    outcomes: ArrayLike,
    frame: pd.DataFrame,
    *,
    slices: Sequence[str],
    slice_metric: str,
    resamples: int,
    confidence: float,
    seed: int,
    subject: str = CANDIDATE,
    metrics: Sequence[str] = METRICS,
) -> Scores:
    """
    Score every contender on the same rows and the same bootstrap resamples, so that differences are paired.

    :param probabilities: Predicted probability of the positive class by contender, each (n_rows,).
    :param outcomes: What happened, 0 or 1, (n_rows,).
    :param frame: Columns that *slices* name, (n_rows, …).
    :param confidence: Share of resamples inside an interval, 0-1.
    :param subject: The contender that is compared with each other one, and scored by slice.
    :raises DataRejectedError: Outcomes of one class only, or a prediction that is NaN. Not retried.
    """
    columns, labels = _checked(probabilities, outcomes)
    scored: dict[object, _Scored] = {name: _Scored(values, labels, metrics) for name, values in columns.items()}
    parts = list(_slice_rows(frame, slices))
    for column, value, positions in parts:
        scored[(column, value)] = _Scored(columns[subject], labels, (slice_metric,), positions)

    draws = _bootstrap(scored, rows=len(labels), resamples=resamples, seed=seed)

    comparisons = []
    for name in columns:
        for metric in metrics if name != subject else ():
            difference = (draws[subject][metric] - draws[name][metric]) * DIRECTIONS[metric]
            if (interval := _interval(difference, confidence)) is not None:
                comparisons.append(Comparison(opponent=name, metric=metric, difference=interval))
    slice_scores = []
    for column, value, positions in parts:
        if (interval := _interval(draws[(column, value)][slice_metric], confidence)) is not None:
            slice_scores.append(
                SliceScore(column=column, value=value, rows=len(positions), metric=slice_metric, score=interval)
            )
    return Scores(
        rows=len(labels),
        metrics={name: _intervals(draws[name], confidence) for name in columns},
        comparisons=tuple(comparisons),
        slices=tuple(slice_scores),
        calibration=calibration(columns[subject], labels),
    )


def _intervals(draws: Draws, confidence: float) -> dict[str, Interval]:
    measured = {metric: _interval(values, confidence) for metric, values in draws.items()}
    return {metric: interval for metric, interval in measured.items() if interval is not None}


def score(metric: str, probabilities: ArrayLike, outcomes: ArrayLike) -> float:
    """Score predictions once, without an interval; raises as `evaluate` does."""
    columns, labels = _checked({"predictions": probabilities}, outcomes)
    return float(_Scored(columns["predictions"], labels, (metric,)).draw(np.ones((1, len(labels))))[metric][0])


def calibration(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Compare promised and observed rates in *bins* groups of about equally many rows, by rising probability."""
    values = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(outcomes, dtype=np.float64)
    groups = (part for part in np.array_split(np.argsort(values, kind="stable"), bins) if len(part))
    return tuple(CalibrationBin(len(part), float(values[part].mean()), float(labels[part].mean())) for part in groups)

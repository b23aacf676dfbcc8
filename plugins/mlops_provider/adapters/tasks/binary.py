"""Targets of 0 and 1: predicted is the probability of 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlops_provider.adapters.tasks.base import Draws, Floats, Ratios, Rows, Scored
from mlops_provider.core import tasks
from mlops_provider.exceptions import DataRejectedError

CALLED_POSITIVE = 0.5
"""Probability above which a row is called positive, by metrics of predicted classes and by rates of groups."""

_RANKED = frozenset({"roc_auc", "average_precision"})
_LOSSES = frozenset({"brier", "log_loss"})


class Binary:
    """Two classes, 0 and 1."""

    about = tasks.BINARY
    classes: tuple[float, ...] = (0.0, 1.0)

    def fits(self, model: Any) -> bool:
        """Whether it is a classifier with probabilities."""
        from sklearn.base import is_classifier

        return is_classifier(model) and hasattr(model, self.about.method)

    def predict(self, model: Any, X: pd.DataFrame) -> Floats:
        """Predict the probability of class 1, 0-1, (n_rows,)."""
        return np.asarray(model.predict_proba(X)[:, 1], dtype=np.float64)

    def wrong(self, outcomes: pd.Series[Any]) -> str:
        """Count what is neither 0 nor 1."""
        wrong = int((~outcomes.isin([0, 1])).sum())
        return f"{wrong:,} of {len(outcomes):,} are neither 0 nor 1" if wrong else ""

    def require_learnable(self, outcomes: Floats) -> None:
        """Both classes are needed."""
        if (classes := len(np.unique(outcomes))) < 2:
            raise DataRejectedError(
                f"{len(outcomes):,} rows with {classes} class(es): both 0 and 1 are needed to learn."
            )

    def require_scorable(self, outcomes: Floats) -> None:
        """Both classes are needed, and nothing else."""
        classes = np.unique(outcomes)
        if not np.array_equal(classes, [0.0, 1.0]):
            raise DataRejectedError(
                f"{len(outcomes)} labelled rows with {len(classes)} class(es): both 0 and 1 are needed to score a "
                "model."
            )

    def scored(self, predictions: Floats, outcomes: Floats, metrics: Sequence[str], rows: Rows | None = None) -> Scored:
        """Prepare probabilities for scoring."""
        return ScoredProbabilities(predictions, outcomes, metrics, rows)

    def rates(self, predictions: Floats, outcomes: Floats, rows: Rows) -> Scored:
        """Share that is called positive, of all, of the positive, of the negative; and share of those that are."""
        called = (predictions > CALLED_POSITIVE).astype(np.float64)
        everyone = np.ones_like(called)
        return Ratios(
            {
                "selection_rate": (called, everyone),
                "true_positive_rate": (called * outcomes, outcomes),
                "false_positive_rate": (called * (1 - outcomes), 1 - outcomes),
                "precision": (called * outcomes, called),
            },
            rows,
        )

    def described(self, outcomes: Floats) -> Mapping[str, float]:
        """Share of class 1."""
        return {"positive_share": float(outcomes.mean())}

    def residuals(self, predictions: Floats, outcomes: Floats) -> Mapping[str, float]:
        """Errors of probabilities are 0 or 1 away from an outcome; their calibration says it better."""
        return {}

    def dummy(self, metric: str) -> Any:
        """The share of class 1 for every row."""
        from sklearn.dummy import DummyClassifier

        return DummyClassifier(strategy="prior")

    def linear(self) -> Any:
        """A logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=200)


class ScoredProbabilities:
    """
    One column of predictions, prepared for many weightings of its rows.

    ROC AUC and average precision follow Fawcett, "An introduction to ROC analysis" (2006): rows are sorted by falling
    score once, and each weighting then needs cumulative sums only, read where a group of equal scores ends.

    :param rows: Positions of the rows that count, or all when None.
    """

    def __init__(
        self, probabilities: Floats, outcomes: Floats, metrics: Sequence[str], rows: Rows | None = None
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
        called = self.scores > CALLED_POSITIVE
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

"""The interface of a kind of target, and the scores that are weighted means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.core.tasks import TargetTask

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Draws = dict[str, Floats]
"""Metric → one value per weighting of the rows, (n_draws,)."""


class Scored(Protocol):
    """Predictions of some rows, prepared for many weightings of them."""

    @property
    def metrics(self) -> Sequence[str]:
        """What `draw` gives."""

    def draw(self, weights: Floats) -> Draws:
        """
        Score the rows once per weighting.

        :param weights: How often each row counts, (n_draws, n_rows).
        :return: Per metric (n_draws,); NaN where it is undefined, such as ROC AUC of one class.
        """


class Task(Protocol):
    """A kind of target."""

    about: TargetTask
    classes: tuple[float, ...]
    """Outcomes that each has to be there; none of numbers."""

    def fits(self, model: Any) -> bool:
        """Whether an estimator, fitted or not, predicts this kind of target."""

    def predict(self, model: Any, X: pd.DataFrame) -> Floats:
        """Predict one number per row, (n_rows,)."""

    def wrong(self, outcomes: pd.Series[Any]) -> str:
        """Say what outcomes no such target can have, or nothing."""

    def require_learnable(self, outcomes: Floats) -> None:
        """
        Refuse outcomes that nothing can be learnt from.

        :raises DataRejectedError: They are all alike, or there are none. Not retried.
        """

    def require_scorable(self, outcomes: Floats) -> None:
        """
        Refuse outcomes that no model can be judged on.

        :raises DataRejectedError: Says what is missing. Not retried.
        """

    def scored(self, predictions: Floats, outcomes: Floats, metrics: Sequence[str], rows: Rows | None = None) -> Scored:
        """
        Prepare predictions for scoring.

        :param metrics: Names out of ``about.metrics``.
        :param rows: Positions of the rows that count, or all when None.
        """

    def rates(self, predictions: Floats, outcomes: Floats, rows: Rows) -> Scored:
        """Prepare what is measured for the group of people at *rows*: ``about.rates``."""

    def described(self, outcomes: Floats) -> Mapping[str, float]:
        """Sum outcomes up in a number or two, for people."""

    def residuals(self, predictions: Floats, outcomes: Floats) -> Mapping[str, float]:
        """Sum errors up, predicted minus observed; empty where that says nothing."""

    def dummy(self, metric: str) -> Any:
        """Give an unfitted estimator that looks at no feature, the best such one by *metric*."""

    def linear(self) -> Any:
        """Give an unfitted linear estimator."""


class Ratios:
    """
    Metrics that are one weighted sum divided by another.

    :param parts: Metric → numerator and denominator per row, each (n_rows,) of all rows.
    :param rows: Positions of the rows that count.
    """

    def __init__(self, parts: Mapping[str, tuple[Floats, Floats]], rows: Rows) -> None:
        self.metrics = tuple(parts)
        self._rows = rows
        self._above = np.stack([above[rows] for above, _ in parts.values()], axis=1)
        self._below = np.stack([below[rows] for _, below in parts.values()], axis=1)

    def draw(self, weights: Floats) -> Draws:
        """Divide the sums, once per weighting; NaN where there is nothing to divide by."""
        weights = weights[:, self._rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (weights @ self._above) / (weights @ self._below)
        return dict(zip(self.metrics, values.T, strict=True))

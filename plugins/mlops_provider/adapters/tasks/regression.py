"""Targets that are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlops_provider.adapters.tasks.base import Draws, Floats, Ratios, Rows, Scored
from mlops_provider.core import tasks
from mlops_provider.exceptions import DataRejectedError

_QUANTILES = (1, 5, 25, 50, 75, 95, 99)
_BEST_IS_THE_MEDIAN = frozenset({"mae", "median_absolute_error"})


class Regression:
    """Any finite number."""

    about = tasks.REGRESSION
    classes: tuple[float, ...] = ()

    def fits(self, model: Any) -> bool:
        """Whether it is a regressor."""
        from sklearn.base import is_regressor

        return bool(is_regressor(model))

    def predict(self, model: Any, X: pd.DataFrame) -> Floats:
        """Predict in units of the target, (n_rows,)."""
        return np.asarray(model.predict(X), dtype=np.float64).reshape(len(X))

    def wrong(self, outcomes: pd.Series[Any]) -> str:
        """Count what is no finite number."""
        if pd.api.types.is_bool_dtype(outcomes) or not pd.api.types.is_numeric_dtype(outcomes):
            return f"they are {outcomes.dtype}, not numbers"
        wrong = int((~np.isfinite(outcomes.to_numpy(dtype=np.float64, na_value=np.nan))).sum())
        return f"{wrong:,} of {len(outcomes):,} are no finite number" if wrong else ""

    def require_learnable(self, outcomes: Floats) -> None:
        """Two different numbers are needed."""
        if (numbers := len(np.unique(outcomes))) < 2:
            raise DataRejectedError(
                f"{len(outcomes):,} rows with {numbers} number(s): two or more are needed to learn."
            )

    def require_scorable(self, outcomes: Floats) -> None:
        """Finite numbers are needed, and two different ones: R² is undefined otherwise."""
        if not np.isfinite(outcomes).all() or len(np.unique(outcomes)) < 2:
            raise DataRejectedError(
                f"{len(outcomes)} labelled rows: two or more different finite numbers are needed to score a model."
            )

    def scored(self, predictions: Floats, outcomes: Floats, metrics: Sequence[str], rows: Rows | None = None) -> Scored:
        """Prepare predicted numbers for scoring."""
        return ScoredNumbers(predictions, outcomes, metrics, rows)

    def rates(self, predictions: Floats, outcomes: Floats, rows: Rows) -> Scored:
        """Mean prediction, mean error (predicted minus observed) and mean absolute error."""
        errors, everyone = predictions - outcomes, np.ones_like(predictions)
        return Ratios(
            {
                "mean_prediction": (predictions, everyone),
                "mean_error": (errors, everyone),
                "mae": (np.abs(errors), everyone),
            },
            rows,
        )

    def described(self, outcomes: Floats) -> Mapping[str, float]:
        """Mean and standard deviation."""
        return {"mean": float(outcomes.mean()), "standard_deviation": float(outcomes.std())}

    def residuals(self, predictions: Floats, outcomes: Floats) -> Mapping[str, float]:
        """Mean and quantiles of predicted minus observed, by name: ``mean``, ``p1`` to ``p99``."""
        errors = predictions - outcomes
        quantiles = np.percentile(errors, _QUANTILES)
        return {"mean": float(errors.mean())} | {
            f"p{percent}": float(value) for percent, value in zip(_QUANTILES, quantiles, strict=True)
        }

    def dummy(self, metric: str) -> Any:
        """The median where absolute errors count, else the mean: no other number is better by that metric."""
        from sklearn.dummy import DummyRegressor

        return DummyRegressor(strategy="median" if metric in _BEST_IS_THE_MEDIAN else "mean")

    def linear(self) -> Any:
        """A ridge regression; the features come scaled."""
        from sklearn.linear_model import Ridge

        return Ridge()


class ScoredNumbers:
    """
    One column of predicted numbers, prepared for many weightings of its rows.

    The median of a weighting is found as in a sample that holds each row so many times: rows are sorted by absolute
    error once, and each weighting then needs a cumulative sum only.

    :param rows: Positions of the rows that count, or all when None.
    """

    def __init__(self, predictions: Floats, outcomes: Floats, metrics: Sequence[str], rows: Rows | None = None) -> None:
        errors = predictions - outcomes if rows is None else predictions[rows] - outcomes[rows]
        rising = np.argsort(np.abs(errors), kind="stable")
        self.order = rising if rows is None else rows[rising]
        self.errors = errors[rising]
        observed = outcomes[self.order]
        # Centred, so that a variance is no small difference of two large sums.
        self.observed = observed - observed.mean() if len(observed) else observed
        self.metrics = tuple(metrics)

    def draw(self, weights: Floats) -> Draws:
        """Score the rows once per weighting; NaN where a metric is undefined, such as R² of equal numbers."""
        weights = np.take(weights, self.order, axis=1)
        rows = weights.sum(axis=1)
        results: Draws = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            squared = weights @ self.errors**2
            if "rmse" in self.metrics:
                results["rmse"] = np.sqrt(squared / rows)
            if "mae" in self.metrics:
                results["mae"] = weights @ np.abs(self.errors) / rows
            if "absolute_bias" in self.metrics:
                results["absolute_bias"] = np.abs(weights @ self.errors / rows)
            if "median_absolute_error" in self.metrics:
                results["median_absolute_error"] = self._median(weights, rows)
            if "r2" in self.metrics:
                spread = weights @ self.observed**2 - (weights @ self.observed) ** 2 / rows
                # Equal numbers leave nothing to explain; what rounding makes of their spread is no number to divide by.
                tiny = np.finfo(np.float64).eps * rows * float(np.abs(self.observed).max(initial=0.0)) ** 2
                results["r2"] = np.where(spread > tiny, 1 - squared / spread, np.nan)
        return results

    def _median(self, weights: Floats, rows: Floats) -> Floats:
        counted, sizes = np.cumsum(weights, axis=1), np.abs(self.errors)
        if not len(sizes):
            return np.full(len(rows), np.nan)
        lower, upper = (
            sizes[np.minimum((counted < rank[:, None]).sum(axis=1), len(sizes) - 1)]
            for rank in (np.floor((rows + 1) / 2), np.floor(rows / 2) + 1)
        )
        return np.where(rows > 0, (lower + upper) / 2, np.nan)

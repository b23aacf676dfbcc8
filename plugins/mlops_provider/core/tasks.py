"""
What kind of thing a model predicts, in words and names; how it is computed stands in ``adapters/tasks``.

A third kind is one more entry here, one more file there, and one more template for its calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mlops_provider.core.retrain import Drop


@dataclass(frozen=True, slots=True)
class TargetTask:
    """
    A kind of target.

    :param metrics: Metrics it is scored with.
    :param shown: Those that every report shows; others are shown if the gate names them.
    :param rates: What is measured for each group of a protected attribute.
    :param rates_told: What a reader must know of these rates.
    :param method: Method of a fitted estimator that predicts.
    :param dummy: The dummy baseline, in words.
    :param linear: The linear baseline, in words.
    :param performance_drop: Loss of the primary metric that is tolerated if ``model.yaml`` names none.
    """

    name: str
    metrics: tuple[str, ...]
    shown: tuple[str, ...]
    rates: tuple[str, ...]
    rates_told: str
    method: str
    dummy: str
    linear: str
    performance_drop: Drop


BINARY = TargetTask(
    name="binary",
    metrics=(
        "roc_auc",
        "average_precision",
        "accuracy",
        "balanced_accuracy",
        "precision",
        "recall",
        "f1",
        "brier",
        "log_loss",
    ),
    shown=("roc_auc", "average_precision", "brier", "log_loss"),
    rates=("selection_rate", "true_positive_rate", "false_positive_rate", "precision"),
    rates_told="A probability above 0.5 counts as selected.",
    method="predict_proba",
    dummy="dummy: the base rate",
    linear="logistic regression",
    performance_drop=Drop(0.02),
)
REGRESSION = TargetTask(
    name="regression",
    metrics=("rmse", "mae", "median_absolute_error", "r2", "absolute_bias"),
    shown=("rmse", "mae", "median_absolute_error", "r2", "absolute_bias"),
    rates=("mean_prediction", "mean_error", "mae"),
    rates_told="An error is predicted minus observed.",
    method="predict",
    dummy="dummy: always the same number",
    linear="ridge regression",
    # An RMSE has the units of its target, so no number of them fits every model.
    performance_drop=Drop(0.1, relative=True),
)

TASKS: Mapping[str, TargetTask] = MappingProxyType({task.name: task for task in (BINARY, REGRESSION)})
"""Every kind of target, as ``target.task`` names it."""

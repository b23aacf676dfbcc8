"""How each kind of target is learnt, predicted and scored: one file per kind, all with the interface of `Task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlops_provider.adapters.tasks.base import Floats, Scored, Task
from mlops_provider.adapters.tasks.binary import Binary
from mlops_provider.adapters.tasks.regression import Regression
from mlops_provider.exceptions import ServingCheckError

__all__ = ["BINARY", "REGRESSION", "TASKS", "Floats", "Scored", "Task", "of_model"]

BINARY: Task = Binary()
REGRESSION: Task = Regression()
TASKS: Mapping[str, Task] = {task.about.name: task for task in (BINARY, REGRESSION)}
"""Every kind, as ``target.task`` of ``model.yaml`` names it."""


def of_model(model: Any) -> Task:
    """
    Return the kind of target that an estimator predicts, fitted or not; the estimator itself says so.

    :raises ServingCheckError: It predicts none of them. Not retried.
    """
    for task in TASKS.values():
        if task.fits(model):
            return task
    raise ServingCheckError(
        f"A {type(model).__name__} is neither a classifier with probabilities nor a regressor: "
        "no other kind of model can be scored or served."
    )

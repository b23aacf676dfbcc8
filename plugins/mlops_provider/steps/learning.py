"""What the training steps share: the rows to learn from, the threads to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.adapters import evaluation, tasks
from mlops_provider.adapters.training import Examples
from mlops_provider.exceptions import SpecError
from mlops_provider.steps.outcomes import labelled_features

if TYPE_CHECKING:
    from mlops_provider.core.names import Task
    from mlops_provider.spec import ModelSpec
    from mlops_provider.steps.declaration import Declaration
    from mlops_provider.stores.suite import Stores


def training_rows(
    spec: ModelSpec,
    stores: Stores,
    declared: Declaration,
    *,
    equal: tuple[str, str] | None = None,
    more: Sequence[str] = (),
) -> pd.DataFrame:
    """
    Read the labelled rows of the declared training partitions, only the columns that are needed.

    :param equal: Feature column and text: only rows that hold it there.
    :param more: Columns that are needed beside the features.
    """
    return labelled_features(
        spec,
        stores,
        declared.features,
        declared.outcomes,
        declared.trained_on,
        columns=[*spec.feature_columns, *more],
        equal=equal,
    )


def examples(spec: ModelSpec, rows: pd.DataFrame) -> Examples:
    """Part features from target."""
    return Examples(rows[list(spec.feature_columns)], rows[spec.target.name].to_numpy(dtype=np.float64))


def task(spec: ModelSpec) -> tasks.Task:
    """How the target is learnt, predicted and scored."""
    return tasks.TASKS[spec.task.name]


def estimator(spec: ModelSpec, params: Mapping[str, Any]) -> Any:
    """
    Build the use case's estimator.

    :raises SpecError: It is none for the declared target. Not retried.
    """
    built = spec.function("estimator")(dict(params))
    if not task(spec).fits(built):
        raise SpecError(
            f"{spec.functions.estimator} returned a {type(built).__name__} for a {spec.task.name} target: "
            f"expected an estimator of that kind with {spec.task.method}."
        )
    return built


def blocks(spec: ModelSpec, rows: pd.DataFrame) -> NDArray[np.intp] | None:
    """Number the blocks in which *rows* are resampled; None if they are resampled one by one."""
    return evaluation.blocks_of(rows, spec.bootstrap.block, event_time=spec.event_time, time_zone=spec.time_zone)


def threads(spec: ModelSpec, task: Task) -> int:
    """Threads that ``model.yaml`` grants the task; one by default, as tasks run side by side."""
    granted = spec.resources.get(task)
    return (granted and granted.threads) or 1

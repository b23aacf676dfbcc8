"""What the training steps share: the rows to learn from, the threads to use."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
    from mlops_provider.spec import FunctionName, ModelSpec
    from mlops_provider.steps.declaration import Declaration
    from mlops_provider.stores.suite import Stores


def training_rows(spec: ModelSpec, stores: Stores, declared: Declaration) -> pd.DataFrame:
    """Read the labelled rows of the declared training partitions, only the columns that are needed."""
    return labelled_features(
        spec, stores, declared.features, declared.outcomes, declared.trained_on, columns=spec.feature_columns
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


@contextmanager
def calling(spec: ModelSpec, *functions: FunctionName) -> Iterator[None]:
    """
    Say in our words what goes wrong in functions of the use case, or with what they returned.

    :raises SpecError: A mistake in the code, or parameters or data that it can't take. Not retried.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, NameError, ArithmeticError, AssertionError) as error:
        # The message of such an error often quotes the value it choked on.
        named = " and ".join(f"{getattr(spec.functions, function)}" for function in functions)
        raise SpecError(
            f"{spec.path.parent.name}/{named} failed with {type(error).__name__}{_place(spec, error)}; the task's log "
            "says more. Mend it, then clear this task."
        ) from error


def _place(spec: ModelSpec, error: Exception) -> str:
    """The last line of the use case that led to an error; nothing if all happened in a library."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _inside(spec.folder, frame.filename)]
    return f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ", in a library it uses"


def _inside(folder: Path, file: str) -> bool:
    return Path(file).is_relative_to(folder)


def threads(spec: ModelSpec, task: Task) -> int:
    """Threads that ``model.yaml`` grants the task; one by default, as tasks run side by side."""
    granted = spec.resources.get(task)
    return (granted and granted.threads) or 1

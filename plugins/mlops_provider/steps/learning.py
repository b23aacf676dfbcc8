"""What the training steps share: the rows to learn from, the threads to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mlops_provider.adapters.training import Examples
from mlops_provider.steps.outcomes import labelled_features

if TYPE_CHECKING:
    from mlops_provider.core.names import Task
    from mlops_provider.spec import ModelSpec
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


def threads(spec: ModelSpec, task: Task) -> int:
    """Threads that ``model.yaml`` grants the task; one by default, as tasks run side by side."""
    granted = spec.resources.get(task)
    return (granted and granted.threads) or 1

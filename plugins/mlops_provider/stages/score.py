"""Features become predictions."""

from __future__ import annotations

from mlops_provider.core.names import Task
from mlops_provider.operators.score import ScoreBatchOperator
from mlops_provider.stages.resources import chunks_of, resources


def score(model_yaml: str) -> None:
    """Predict a partition with the version that has the traffic."""
    ScoreBatchOperator(**resources(model_yaml, Task.SCORE_BATCH), chunks=chunks_of(model_yaml, Task.SCORE_BATCH))

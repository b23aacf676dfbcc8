"""What a task may use, as model.yaml declares it."""

from __future__ import annotations

from typing import Any

from mlops_provider.core.names import Task
from mlops_provider.spec import load_spec


def resources(model_yaml: str, task: Task) -> dict[str, Any]:
    """
    Give the operator arguments for a task: its owner, and its pool and queue where declared.

    :param model_yaml: Path of the use case's ``model.yaml``.
    :param task: Task to look up under ``resources``.
    :return: ``task_id``, ``model_yaml``, ``owner``, and ``pool`` and ``queue`` if declared.
    """
    spec = load_spec(model_yaml)
    declared = spec.resources.get(task)
    arguments: dict[str, Any] = {"task_id": str(task), "model_yaml": model_yaml, "owner": spec.owner}
    if declared is not None and declared.pool:
        arguments["pool"] = declared.pool
    if declared is not None and declared.queue:
        arguments["queue"] = declared.queue
    return arguments

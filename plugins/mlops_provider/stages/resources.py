"""What a task may use, as model.yaml declares it, in the words of Airflow's executors."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from mlops_provider.core.names import Task
from mlops_provider.spec import load_spec
from mlops_provider.spec_parts import Pod

BASE_CONTAINER = "base"
"""Name by which the KubernetesExecutor knows the container that runs the task."""


def placement(model_yaml: str, task: Task) -> dict[str, Any]:
    """
    Give the arguments that any operator takes: whose task it is, and where it runs.

    :param model_yaml: Path of the use case's ``model.yaml``.
    :param task: Task to look up under ``resources``.
    :return: ``task_id`` and ``owner``; ``pool``, ``queue`` and ``executor_config`` where declared.
    """
    spec = load_spec(model_yaml)
    arguments: dict[str, Any] = {"task_id": str(task), "owner": spec.owner}
    if declared := spec.resources.get(task):
        arguments |= {name: value for name in ("pool", "queue") if (value := getattr(declared, name))}
        if declared.pod and (config := executor_config(declared.pod)):
            arguments["executor_config"] = config
    return arguments


def resources(model_yaml: str, task: Task) -> dict[str, Any]:
    """Give the arguments of an operator that works from ``model.yaml``: its placement, and the file."""
    return {**placement(model_yaml, task), "model_yaml": model_yaml}


def executor_config(pod: Pod) -> dict[str, Any]:
    """
    Give the pod in the form that the KubernetesExecutor takes.

    Empty where its client library is not installed: that executor can't run there, and no other one reads it. The
    library is imported only for a task that declares a pod.
    """
    if find_spec("kubernetes") is None:
        return {}
    from kubernetes.client import models

    wanted = models.V1ResourceRequirements(requests=pod.requests or None, limits=pod.limits or None)
    container = models.V1Container(name=BASE_CONTAINER, resources=wanted)
    spec = models.V1PodSpec(containers=[container], node_selector=pod.node_selector or None)
    return {"pod_override": models.V1Pod(spec=spec)}

"""What a task may use and in how many chunks it works, as model.yaml declares it, in the words of Airflow."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mlops_provider.core.names import Task, chunk_task, plan_task
from mlops_provider.operators.chunks import PlanChunksOperator, RunChunkOperator
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.spec_parts import Pod

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

BASE_CONTAINER = "base"
"""Name by which the KubernetesExecutor knows the container that runs the task."""

LONGEST_NAME = 250
"""Characters that Airflow's database holds of a mapped task's name; Postgres refuses a longer one."""


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


def chunks_of(model_yaml: str, step: Task, *, source: Any = None, after: BaseOperator | None = None) -> Any:
    """
    Add the tasks that plan and work on the chunks of a step, if it comes in chunks.

    :param model_yaml: Path of the use case's ``model.yaml``.
    :param step: The step, which commits what they made.
    :param source: Reference to the rows, for a step that is given some.
    :param after: Task to wait for.
    :return: What the mapped tasks give, for the step's ``chunks``; None if it does all by itself.
    """
    if not _comes_in_chunks(load_spec(model_yaml), step):
        return None
    declared = resources(model_yaml, step)
    plan = PlanChunksOperator(**{**declared, "task_id": plan_task(step)}, of=str(step), source=source)
    if after is not None:
        after >> plan
    share = RunChunkOperator.partial(
        **{**declared, "task_id": chunk_task(step)}, map_index_template=f"{{{{ task.covers[:{LONGEST_NAME}] }}}}"
    )
    return share.expand(chunk=plan.output).output


def _comes_in_chunks(spec: ModelSpec, step: Task) -> bool:
    if spec.chunk_rows is None:
        return False
    if step == Task.LAND_DATA:
        return spec.functions.parts is not None
    return step != Task.BUILD_FEATURES or spec.look_back_hours is not None


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

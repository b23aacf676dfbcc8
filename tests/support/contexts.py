"""Run one operator as a task of somebody's DAG would, without an Airflow around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped


@dataclass
class Ended:
    """
    How a task ended.

    :param state: "success", "stopped" (the same, but what follows is skipped), "skipped", "failed" for good, "retried".
    :param result: Its return value, also the one that a task left which did not return.
    """

    state: str
    result: Any = None
    error: str = ""


@dataclass
class _TaskInstance:
    dag_id: str = "somebodys_dag"
    run_id: str = "run-1"
    task_id: str = "a_task"
    map_index: int = -1
    left: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.left[key] = value


def run(operator: BaseOperator, run_id: str = "run-1") -> Ended:
    """Execute *operator* once."""
    ti = _TaskInstance(run_id=run_id, task_id=operator.task_id)
    context: Any = {"ti": ti, "dag_run": SimpleNamespace(triggering_user_name="ada", logical_date=None)}
    try:
        return Ended("success", operator.execute(context))
    except DownstreamTasksSkipped:
        return Ended("stopped", ti.left["return_value"])
    except AirflowSkipException as reason:
        return Ended("skipped", error=str(reason))
    except AirflowFailException as error:
        return Ended("failed", ti.left.get("return_value"), str(error))
    except Exception as error:  # noqa: BLE001 - as Airflow does
        return Ended("retried", error=f"{type(error).__name__}: {error}")

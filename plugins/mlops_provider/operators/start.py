"""One DAG starting another, exactly once per cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class StartDagRunOperator(BaseOperator):
    """
    Start a run of another DAG under a given run ID; skipped if that run exists already.

    The run ID is the deduplication key: two alarms with one cause start one run. The work is
    done by Airflow's ``TriggerDagRunOperator``, which is imported when the task runs, not when the DAG is
    parsed: its module pulls in 194 others.

    :param trigger_dag_id: DAG to start. (templated)
    :param trigger_run_id: ID of the run to start. (templated)
    :param conf: Params of the run. (templated)
    :raises DagIsPaused: The DAG to start is paused; unpause it and clear this task. Retried.
    """

    template_fields: Sequence[str] = ("trigger_dag_id", "trigger_run_id", "conf")

    def __init__(
        self, *, trigger_dag_id: str, trigger_run_id: str, conf: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.trigger_dag_id = trigger_dag_id
        self.trigger_run_id = trigger_run_id
        self.conf = conf

    def execute(self, context: Context) -> None:
        from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

        TriggerDagRunOperator(
            task_id=self.task_id,
            trigger_dag_id=self.trigger_dag_id,
            trigger_run_id=self.trigger_run_id,
            conf=dict(self.conf or {}),
            logical_date=None,
            skip_when_already_exists=True,
            fail_when_dag_is_paused=True,
        ).execute(context)

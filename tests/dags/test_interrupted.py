"""What Airflow's scheduler does with the deploy stage's teardown, on a metadata database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.stack import ROOT
from support.tiny import USE_CASE

ASK = """
import json, sys
from datetime import UTC, datetime
from airflow.api.common.mark_tasks import set_dag_run_state_to_failed, set_state
from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.models.dagbundle import DagBundleModel
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization, LazyDeserializedDAG
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from mlops_provider.stages.deploy import deploy, deploy_params
initdb()
with DAG("deployment", schedule=None, params=deploy_params(), start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
    deploy(sys.argv[1])
with create_session() as session:
    session.merge(DagBundleModel(name="tests"))
with create_session() as session:
    update_dag_parsing_results_in_db("tests", None, [LazyDeserializedDAG.from_dag(dag)], {}, None, set(), session)
known = DagSerialization.from_dict(DagSerialization.to_dict(dag))
found = {}
for name in ("deferred", "up_for_retry", "failed", "success", "run-failed"):
    with create_session() as session:
        run = known.create_dagrun(
            run_id=name, logical_date=None, run_after=datetime.now(UTC), run_type=DagRunType.MANUAL, session=session,
            triggered_by=DagRunTriggeredByType.TEST, state=DagRunState.RUNNING, conf={"version": "1"},
        )
        session.flush()
        tasks = {task.task_id: task for task in run.get_task_instances(session=session)}
        tasks["check_serving"].state, tasks["deploy_model"].state = "success", "deferred"
        session.flush()
        if name == "run-failed":
            set_dag_run_state_to_failed(dag=known, run_id=name, commit=True, session=session)
        elif name != "deferred":
            task = known.get_task("deploy_model")
            task.dag = known
            set_state(tasks=[task], run_id=name, state=TaskInstanceState(name), commit=True, session=session)
        session.flush()
        session.expire_all()
        next_ = [task.task_id for task in run.task_instance_scheduling_decisions(session=session).schedulable_tis]
        ended = None
        if next_:
            tasks["end_rollout"].state, run.dag = "skipped", known
            session.flush()
            run.update_state(session=session)
            ended = str(run.state)
        found[name] = [next_, ended]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_teardown_runs_once_the_deployment_is_over_for_good_and_leaves_the_runs_state_alone(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK, str(USE_CASE / "model.yaml")],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
            "PYTHONPATH": str(ROOT / "plugins"),
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert asked.returncode == 0, asked.stderr[-3000:]
    assert json.loads(asked.stdout.splitlines()[-1]) == {
        "deferred": [[], None],
        "up_for_retry": [[], None],
        "failed": [["end_rollout"], "failed"],
        "success": [["end_rollout"], "success"],
        "run-failed": [["end_rollout"], "failed"],
    }

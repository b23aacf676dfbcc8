"""The flights once more, with a rollout that is long enough to break what carries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from mlops_provider.stages.deploy import deploy, deploy_params
from mlops_provider.stages.train import train, train_params

SLOWLY = str(Path(__file__).parent / "slowly/model.yaml")
COMMAND: dict[str, Any] = {"max_active_runs": 1, "default_args": {"retries": 2, "retry_delay": 5}}

with DAG("cluster_train", schedule=None, params=train_params(), **COMMAND):
    train(SLOWLY, deploy_dag="cluster_deploy")

with DAG("cluster_deploy", schedule=None, params=deploy_params(), **COMMAND):
    deploy(SLOWLY)

"""
# Deploy

Loads a registered version in the real server and compares its answers with the registry's, then moves
traffic to it in steps; settles, or rolls back by itself.

A command: started by `adult_income_train`, by a person, or by REST.
"""

from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.deploy import deploy, deploy_params

MODEL = str(Path(__file__).resolve().parents[1] / "include/adult_income/model.yaml")

with DAG(
    "adult_income_deploy",
    schedule=None,
    params=deploy_params(),
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "adult_income"],
    doc_md=__doc__,
):
    deploy(MODEL)

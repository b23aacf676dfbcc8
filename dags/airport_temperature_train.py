"""
# Train

Trains a candidate on every month before the one it is judged on, scores it beside the champion
and two baselines on the same fresh rows, and registers it only if it passes the gate. A rejected
candidate is a verdict, not a failure: the rest is skipped.

A command: started by `airport_temperature_monitor`, by a person, or by REST.
"""

from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.train import train, train_params

MODEL = str(Path(__file__).resolve().parents[1] / "include/airport_temperature/model.yaml")

with DAG(
    "airport_temperature_train",
    schedule=None,
    params=train_params(),
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "airport_temperature"],
    doc_md=__doc__,
):
    train(MODEL, deploy_dag="airport_temperature_deploy")

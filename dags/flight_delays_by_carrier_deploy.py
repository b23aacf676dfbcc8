"""
# Deploy

Loads a registered version in the real server and compares its answers with the registry's, then moves
traffic to it as `rollout` of its model.yaml declares; settles, or rolls back by itself when a guard is breached.
While it waits it holds no worker.

A command: started by `flight_delays_by_carrier_train`, by a person, or by REST. With `MLOPS_SNS_TOPIC` set,
incidents are told there.
"""

from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.deploy import deploy, deploy_params
from mlops_provider.stages.monitor import tell

MODEL = str(Path(__file__).resolve().parents[1] / "include/flight_delays_by_carrier/model.yaml")

with DAG(
    "flight_delays_by_carrier_deploy",
    schedule=None,
    params=deploy_params(),
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "flight_delays_by_carrier"],
    doc_md=__doc__,
):
    deploy(MODEL, on_incident_callback=tell(MODEL, "{{ mlops.summary }}"))

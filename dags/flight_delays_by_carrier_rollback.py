"""
# Roll back

Gives the traffic back to the last settled version and records why. The version that loses it
is not deployed again.
"""

from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.deploy import rollback, rollback_params

MODEL = str(Path(__file__).resolve().parents[1] / "include/flight_delays_by_carrier/model.yaml")

with DAG(
    "flight_delays_by_carrier_rollback",
    schedule=None,
    params=rollback_params(),
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "flight_delays_by_carrier"],
    doc_md=__doc__,
):
    rollback(MODEL)

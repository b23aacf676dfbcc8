"""
# Train

Trains a candidate on every month before the one it is judged on: one model for all carriers, and a
mapped task per carrier, whose model is taken where it is shown better. The candidate is scored beside
the champion, its parent and two baselines on the same fresh flights, and registered only if it passes
the gate. A rejected candidate is a verdict, not a failure: the rest is skipped.

A command: started by `flight_delays_by_carrier_monitor`, by a person, or by REST.
"""

from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.train import train, train_params

MODEL = str(Path(__file__).resolve().parents[1] / "include/flight_delays_by_carrier/model.yaml")

with DAG(
    "flight_delays_by_carrier_train",
    schedule=None,
    params=train_params(),
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "flight_delays_by_carrier"],
    doc_md=__doc__,
):
    train(MODEL, deploy_dag="flight_delays_by_carrier_deploy")

"""
# Score

Predicts every flight of a month with the version that has the traffic, as soon as the
features of that month are announced.
"""

from pathlib import Path

from airflow.sdk import DAG, PartitionedAssetTimetable

from mlops_provider.stages.ingest import features_of
from mlops_provider.stages.score import score

MODEL = str(Path(__file__).resolve().parents[1] / "include/flight_delays_by_carrier/model.yaml")

with DAG(
    "flight_delays_by_carrier_score",
    schedule=PartitionedAssetTimetable(assets=features_of(MODEL)),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "flight_delays_by_carrier"],
    doc_md=__doc__,
):
    score(MODEL)

"""
# Ingest

A month of departures becomes features: landed as it came, held against the expectations
(bad rows are quarantined with their reasons), turned into features. One partition per month.

Start it with a partition key such as `2013-01`, or backfill a range of months.
"""

from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.ingest import ingest
from mlops_provider.stages.timetables import monthly

MODEL = str(Path(__file__).resolve().parents[1] / "include/flight_delays_by_carrier/model.yaml")

with DAG(
    "flight_delays_by_carrier_ingest",
    schedule=monthly(),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    end_date=datetime(2014, 2, 1, tzinfo=UTC),  # the data ends with 2013, so unpausing starts nothing by itself
    catchup=False,
    max_active_runs=2,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "flight_delays_by_carrier"],
    doc_md=__doc__,
):
    ingest(MODEL)

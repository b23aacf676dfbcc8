"""
# Ingest

A month of rows becomes features: landed as it came, held against the expectations
(bad rows are quarantined with their reasons), turned into features. One partition per month.

Start it with a partition key such as `2013-01`, or backfill a range of months.
"""

from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.ingest import ingest
from mlops_provider.stages.timetables import monthly

MODEL = str(Path(__file__).resolve().parents[1] / "include/airport_temperature/model.yaml")

with DAG(
    "airport_temperature_ingest",
    schedule=monthly(),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    end_date=datetime(2014, 2, 1, tzinfo=UTC),  # the data ends with 2013-12, so unpausing starts nothing by itself
    catchup=False,
    max_active_runs=2,
    default_args={"retries": 2, "retry_delay": 10},
    tags=["mlops", "airport_temperature"],
    doc_md=__doc__,
):
    ingest(MODEL)

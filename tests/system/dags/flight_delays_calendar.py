"""The ingest stage under a calendar that is due: what the schedule starts by itself, for the month that ended."""

from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.ingest import ingest
from mlops_provider.stages.timetables import monthly

MODEL = str(Path(__file__).resolve().parents[3] / "include/flight_delays/model.yaml")

with DAG(
    "flight_delays_calendar",
    schedule=monthly(),
    start_date=datetime(2013, 2, 1, tzinfo=UTC),
    end_date=datetime(2013, 2, 1, tzinfo=UTC),
    catchup=True,
    is_paused_upon_creation=True,
):
    ingest(MODEL)

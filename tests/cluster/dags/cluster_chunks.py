"""The flights once more, declared in chunks of 8,192 rows: the same tables, by mapped tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from mlops_provider.core.names import Task
from mlops_provider.operators.monitor import DetectDriftOperator
from mlops_provider.stages.ingest import ingest
from mlops_provider.stages.resources import chunks_of, resources
from mlops_provider.stages.score import score
from mlops_provider.stages.timetables import monthly

IN_CHUNKS = str(Path(__file__).parent / "in_chunks/model.yaml")
IN_ONE_PIECE = str(Path(__file__).parents[1] / "include/flight_delays/model.yaml")
IN_2013: dict[str, Any] = {
    "start_date": datetime(2013, 1, 1, tzinfo=UTC),
    "end_date": datetime(2014, 2, 1, tzinfo=UTC),
    "catchup": False,
    "default_args": {"retries": 2, "retry_delay": 5},
}

with DAG("cluster_chunks_ingest", schedule=monthly(), **IN_2013):
    ingest(IN_CHUNKS)

with DAG("cluster_chunks_score", schedule=monthly(), **IN_2013):
    score(IN_CHUNKS)

with DAG("cluster_chunks_drift", schedule=monthly(), **IN_2013):
    DetectDriftOperator(**resources(IN_CHUNKS, Task.DETECT_DRIFT), chunks=chunks_of(IN_CHUNKS, Task.DETECT_DRIFT))
    DetectDriftOperator(task_id="in_one_piece", model_yaml=IN_ONE_PIECE)

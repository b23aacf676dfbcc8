"""
# Monitor

Once a month's outcomes are known: how good the predictions were, which features drifted,
and whether to train again. If so, a run of `flight_delays_by_carrier_train` is started, with the cause as its run ID.

It runs by the calendar, so a month without data is noticed. With `MLOPS_SNS_TOPIC` set, failures,
drift alarms and decisions to retrain are told there.
"""

from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG

from mlops_provider.stages.monitor import monitor, tell
from mlops_provider.stages.timetables import monthly

MODEL = str(Path(__file__).resolve().parents[1] / "include/flight_delays_by_carrier/model.yaml")

with DAG(
    "flight_delays_by_carrier_monitor",
    schedule=monthly(),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    end_date=datetime(2014, 2, 1, tzinfo=UTC),  # the data ends with 2013, so unpausing starts nothing by itself
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": 10,
        "on_failure_callback": tell(MODEL, "{{ ti.task_id }} of {{ dag_run.partition_key }} failed: {{ exception }}"),
    },
    tags=["mlops", "flight_delays_by_carrier"],
    doc_md=__doc__,
):
    told = tell(MODEL, "{{ mlops.partition }}: {{ mlops.summary }}")
    monitor(MODEL, train_dag="flight_delays_by_carrier_train", on_alarm_callback=told, on_retrain_callback=told)

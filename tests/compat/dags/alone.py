"""
Somebody's own DAG: each operator that works alone, over files, over SQL and over S3. Needs nothing else of the suite.

`COMPAT_*` variables say where the tables are; `COMPAT_TASKS` names the tasks that are wanted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from mlops_provider.operators.ingest import LandDataOperator
from mlops_provider.operators.ledger import RecordDecisionOperator
from mlops_provider.operators.registry import PromoteVersionOperator, RegisterVersionOperator
from mlops_provider.operators.tables import (
    DetectTableDriftOperator,
    FileTable,
    GatePredictionsOperator,
    SqlTable,
    ValidateTableOperator,
)

DATA, OUT = os.environ["COMPAT_DATA"], Path(os.environ["COMPAT_OUT"])
WANTED = os.environ["COMPAT_TASKS"].split(",")
SOURCES: dict[str, Callable[[str], FileTable | SqlTable]] = {
    "files": lambda name: FileTable(f"{DATA}/{name}.parquet"),
    "sql": lambda name: SqlTable(f"SELECT * FROM {name}", conn_id="warehouse"),
    "s3": lambda name: FileTable(f"s3://compat/{name}.parquet", conn_id="compat_aws"),
}


def noted(state: str) -> Callable[[Any], None]:
    """Write down how a task ended, for the process that started all this."""

    def note(context: Any) -> None:
        ti, error = context["ti"], context.get("exception")
        result = ti.xcom_pull(task_ids=ti.task_id)
        OUT.joinpath(f"{ti.task_id}.json").write_text(
            json.dumps({"state": state, "error": str(error) if error else "", "result": result})
        )

    return note


with DAG("alone", schedule=None) as dag:
    told = {
        "on_success_callback": noted("success"),
        "on_failure_callback": noted("failed"),
        "on_skipped_callback": noted("skipped"),
    }
    for kind, table in SOURCES.items():
        if f"gate_{kind}" in WANTED:
            GatePredictionsOperator(
                task_id=f"gate_{kind}",
                candidate=table("candidate"),
                champion=table("champion"),
                labels=table("labels"),
                keys=["flight"],
                target="late",
                primary="roc_auc",
                limits=[{"metric": "roc_auc", "minimum": 0.6}],
                **told,
            )
        if f"drift_{kind}" in WANTED:
            DetectTableDriftOperator(
                task_id=f"drift_{kind}",
                reference=table("labels"),
                current=table("current"),
                numeric=["distance"],
                categorical=["carrier"],
                reports_uri=f"{DATA}/reports",
                **told,
            )
        if f"validation_{kind}" in WANTED:
            ValidateTableOperator(
                task_id=f"validation_{kind}", table=table("current"), expectations=f"{DATA}/expectations.yaml", **told
            )
    if "ledger" in WANTED:
        RecordDecisionOperator(task_id="ledger", decision={"promote": True}, ledger_conn_id="compat_ledger", **told)
    for server in ("oldest", "newest"):
        if f"register_{server}" in WANTED:
            registered = RegisterVersionOperator(
                task_id=f"register_{server}",
                model="flights",
                source=os.environ.get(f"COMPAT_SOURCE_{server.upper()}", ""),
                registry_conn_id=f"compat_{server}",
                **told,
            )
            PromoteVersionOperator(
                task_id=f"promote_{server}",
                model="flights",
                version=registered.output,
                registry_conn_id=f"compat_{server}",
                **told,
            )
    if "suite" in WANTED:
        LandDataOperator(task_id="suite", model_yaml=f"{DATA}/no-model.yaml", partition="2013-01", **told)

"""
Somebody's own DAG: each operator that works alone, over files, over SQL and over S3. Needs nothing else of the suite.

Every other operator of the provider is in it too, with a `model.yaml` that is not there. `COMPAT_*` variables say where
the tables are; `COMPAT_TASKS` names the tasks that are wanted, and `chain` all those others.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, task

from mlops_provider.get_provider_info import get_provider_info
from mlops_provider.operators.base import MLOpsOperator
from mlops_provider.operators.ledger import RecordDecisionOperator
from mlops_provider.operators.registry import PromoteVersionOperator, RegisterVersionOperator
from mlops_provider.operators.start import StartDagRunOperator
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


def note(name: str, result: Any = None, error: BaseException | None = None) -> None:
    """Write down how an operator ended, for the process that started all this."""
    found = {"result": result, "error": str(error or ""), "kind": type(error).__name__}
    OUT.joinpath(f"{name}.json").write_text(json.dumps(found))


def noted(operator: type[Any]) -> type[Any]:
    """The operator, which also writes down how it ended."""

    class Noted(operator):  # type: ignore[misc]
        def execute(self, context: Any) -> Any:
            try:
                result = super().execute(context)
            except Exception as error:
                note(self.task_id, error=error)
                raise
            note(self.task_id, result)
            return result

    Noted.__name__ = operator.__name__
    return Noted


def others() -> list[type[BaseOperator]]:
    """Operators and sensors of the provider that this DAG has no task of yet."""
    info = get_provider_info()
    modules = [name for part in ("operators", "sensors") for entry in info[part] for name in entry["python-modules"]]
    return [
        member
        for name in modules
        for member in vars(importlib.import_module(name)).values()
        if inspect.isclass(member)
        and issubclass(member, BaseOperator)
        and member.__module__ == name
        and not (getattr(member, "step", None) is MLOpsOperator.step and member.__subclasses__())  # no base class
        and not any(isinstance(there, member) for there in dag.tasks)
    ]


def arguments(operator: type[BaseOperator]) -> dict[str, str]:
    """A text for each argument that must be given, and for the partition, which a run of this DAG has none of."""
    return {
        name: {"model_yaml": f"{DATA}/no-model.yaml", "of": "build_features"}.get(name, "2013-01")
        for base in operator.__mro__
        if base.__module__.startswith("mlops_provider") and "__init__" in vars(base)
        for name, parameter in inspect.signature(base.__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        if parameter.default is parameter.empty or name == "partition"
    }


with DAG("alone", schedule=None) as dag:
    for kind, table in SOURCES.items():
        if f"gate_{kind}" in WANTED:
            noted(GatePredictionsOperator)(
                task_id=f"gate_{kind}",
                candidate=table("candidate"),
                champion=table("champion"),
                labels=table("labels"),
                keys=["flight"],
                target="late",
                primary="roc_auc",
                limits=[{"metric": "roc_auc", "minimum": 0.6}],
            )
        if f"drift_{kind}" in WANTED:
            noted(DetectTableDriftOperator)(
                task_id=f"drift_{kind}",
                reference=table("labels"),
                current=table("current"),
                numeric=["distance"],
                categorical=["carrier"],
                reports_uri=f"{DATA}/reports",
            )
        if f"validation_{kind}" in WANTED:
            noted(ValidateTableOperator)(
                task_id=f"validation_{kind}", table=table("current"), expectations=f"{DATA}/expectations.yaml"
            )
    if "ledger" in WANTED:
        noted(RecordDecisionOperator)(task_id="ledger", decision={"promote": True}, ledger_conn_id="compat_ledger")
    for server in ("oldest", "newest"):
        if f"register_{server}" in WANTED:
            registered = noted(RegisterVersionOperator)(
                task_id=f"register_{server}",
                model="flights",
                source=os.environ.get(f"COMPAT_SOURCE_{server.upper()}", ""),
                registry_conn_id=f"compat_{server}",
            )
            noted(PromoteVersionOperator)(
                task_id=f"promote_{server}",
                model="flights",
                version=registered.output,
                registry_conn_id=f"compat_{server}",
            )
    if "start" in WANTED:
        noted(StartDagRunOperator)(task_id="start", trigger_dag_id="alone_started", trigger_run_id="by-alone")
    if "chain" in WANTED:

        @task
        def chain(**context: Any) -> None:
            """Execute every other operator, one after the other."""
            for operator in others():
                name = f"chain_{operator.__name__}"
                try:
                    note(name, operator(task_id=name, **arguments(operator)).execute(context))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                    note(name, error=error)

        chain()


with DAG("alone_started", schedule=None, is_paused_upon_creation=False):
    pass

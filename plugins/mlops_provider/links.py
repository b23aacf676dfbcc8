"""Links from a task to what it made: its report, its MLflow run. Airflow asks for them when the task ends."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink, conf

from mlops_provider.core import names
from mlops_provider.core.origin import Origin
from mlops_provider.hooks.registry import RegistryHook

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

REPORTS_ROUTE = "/mlops/reports"


class ReportLink(BaseOperatorLink):
    """The rendered report of this very task; its path follows from the task's identity."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Address of the report behind Airflow's login; that page says so if the task wrote none. Nothing for a report
        that lies elsewhere, for Airflow shows only those of the suite's own place.
        """
        if getattr(operator, "reports_uri", ""):
            return ""
        origin = Origin(ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)
        conn_id = getattr(operator, "tables_conn_id", names.TABLES_CONN)
        return report_url(f"{origin.path}/{names.REPORT}", conn_id)


def report_url(path: str, tables_conn_id: str = names.TABLES_CONN) -> str:
    """Address of a report behind Airflow's login, from its path below the root of the reports."""
    base_url = conf.get("api", "base_url", fallback="").rstrip("/")
    store = "" if tables_conn_id == names.TABLES_CONN else f"?tables_conn_id={quote(tables_conn_id, safe='')}"
    return f"{base_url}{REPORTS_ROUTE}/{path}{store}"


class RunLink(BaseOperatorLink):
    """The MLflow run that this task worked on, which its operator leaves in ``linked_run_id``."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Address of the run, or nothing if the task did not get that far or MLflow has no web address."""
        run_id = getattr(operator, "linked_run_id", None)
        if run_id is None:
            return ""
        ui_url = RegistryHook(operator.registry_conn_id).ui_url  # type: ignore[attr-defined]
        if not ui_url.startswith(("http://", "https://")):
            return ""
        return str(operator.stores.registry.run_url(run_id, ui_url))  # type: ignore[attr-defined]

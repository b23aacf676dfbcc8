"""
The web application under ``/mlops``: reports of tasks, for those who may see the DAG.

Types that FastAPI reads from signatures are imported at module level: it resolves
annotations there, and would take a name imported inside a function for a query parameter.
"""

from __future__ import annotations

from html import escape

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.sdk.exceptions import AirflowNotFoundException
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse, Response

from mlops_provider.core import names
from mlops_provider.exceptions import MLOpsError
from mlops_provider.hooks.tables import TablesHook

# Reports hold scripts of Great Expectations and Evidently and text from data. In a sandbox without
# allow-same-origin they run, but can't read Airflow's cookie or call its API as the viewer.
REPORT_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, max-age=60",
}

app = FastAPI(title="MLOps", docs_url=None, redoc_url=None, openapi_url=None)


@app.get(
    "/reports/{dag_id}/{path:path}",
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE))],
)
def report(dag_id: str, path: str, tables_conn_id: str = names.TABLES_CONN) -> Response:
    """
    Give the report that a task of *dag_id* wrote; 404 in words if it wrote none, 503 if the store is away.

    :param tables_conn_id: The tables connection of that task. Whoever asks may name any, so only those of the right
        type are opened, and only what lies below *dag_id* in their reports is read.
    """
    try:
        hook = TablesHook(tables_conn_id)
        if not hook.from_environment and hook.get_connection(tables_conn_id).conn_type != hook.conn_type:
            raise FileNotFoundError(tables_conn_id)
        content = hook.reports.read(f"{dag_id}/{path}")
    except (FileNotFoundError, AirflowNotFoundException):
        return page(404, "No report here", f"No task of {dag_id} has written a report at this place.")
    except (MLOpsError, ValueError) as error:
        return page(503, "Reports can't be opened", str(error))
    return HTMLResponse(content, headers=REPORT_HEADERS)


def page(status: int, title: str, text: str) -> HTMLResponse:
    """A short page in words."""
    body = (
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title>"
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;margin:15vh auto;max-width:34rem}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(text)}</p>"
    )
    return HTMLResponse(body, status_code=status, headers=REPORT_HEADERS)

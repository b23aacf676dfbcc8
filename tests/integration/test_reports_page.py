"""The page that shows reports: from S3 as from a folder, of any tables connection, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops_provider.core.origin import Origin
from mlops_provider.hooks.tables import TablesHook
from mlops_provider.links import ReportLink
from mlops_provider.operators.ingest import ValidateDataOperator
from mlops_provider.ui.app import report
from support.aws import Aws

ORIGIN = Origin("a_dag", "run-1", "validate_data")
PLACE = ORIGIN.path.partition("/")[2] + "/report.html"


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, **connection: object) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))


def test_a_report_on_s3_of_another_tables_connection_opens_by_its_link(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(aws.connection()))
    root = f"s3://{aws.bucket()}/tables"
    connect(monkeypatch, "research", conn_type="mlops_tables", host=root, extra={"aws_conn_id": "warehouse"})
    TablesHook("research").reports.write(ORIGIN, "report.html", "<p>of research</p>")
    operator = ValidateDataOperator(task_id="validate_data", model_yaml="m", landed={}, tables_conn_id="research")

    link = ReportLink().get_link(operator, ti_key=ORIGIN)  # type: ignore[arg-type]
    page = report("a_dag", PLACE, "research")

    assert link.endswith("/report.html?tables_conn_id=research")
    assert bytes(page.body) == b"<p>of research</p>"
    assert "sandbox" in page.headers["content-security-policy"]


def test_no_other_kind_of_connection_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path, "_reports", "a_dag").mkdir(parents=True)
    Path(tmp_path, "_reports", "a_dag", "secret").write_text("secret")
    connect(monkeypatch, "files", conn_type="fs", host=str(tmp_path))

    assert report("a_dag", "secret", "files").status_code == 404
    assert report("a_dag", "secret", "nowhere").status_code == 404


def test_s3_that_is_away_is_said_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(Aws("http://127.0.0.1:9").connection()))
    connect(monkeypatch, "research", conn_type="mlops_tables", host="s3://b/t", extra={"aws_conn_id": "warehouse"})

    page = report("a_dag", PLACE, "research")

    assert page.status_code == 503
    assert "warehouse" in bytes(page.body).decode()

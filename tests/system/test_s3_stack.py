"""What only a stack on S3 has: a connection in Secrets Manager, awaited files, task logs on S3, SNS. `make test-s3`."""

from __future__ import annotations

import os

import pytest

from mlops_provider.cli import local_aws
from mlops_provider.core.names import Table
from support.aws import Aws
from support.stack import MODEL, RunningStack, month_of_flights, wait_until

pytestmark = pytest.mark.skipif(os.environ.get("MLOPS_TEST_STORE") != "s3", reason="make test-s3 runs these")
INGEST = "flight_delays_ingest"


def test_ingest_waits_deferred_for_its_file_with_a_connection_that_only_secrets_manager_has(
    stack: RunningStack,
) -> None:
    assert stack.api.get("/connections/mlops_aws").status_code == 404
    stack.start(INGEST, "awaited", partition_key="2013-05").raise_for_status()
    wait_until(
        lambda: stack.tasks(INGEST, "awaited").get("wait_for_source", {}).get("state") == "deferred",
        "the task to wait without a worker",
    )

    address = f"s3://{local_aws.LANDING}/flights/2013-05.parquet"
    Aws(stack.s3_url).s3().write(address, month_of_flights("2013-05"))

    wait_until(
        lambda: stack.tasks(INGEST, "awaited").get("land_data", {}).get("state") == "success", "the month to land"
    )
    assert "2013-05" in stack.stores.tables.partitions(stack.stores.tables.uri(MODEL, Table.RAW))


def test_task_logs_are_read_from_s3(stack: RunningStack) -> None:
    stack.ingested("2013-01")
    [run] = [run for run in stack.runs(INGEST) if run["partition_key"] == "2013-01"][:1]

    def log() -> str:
        return stack.log(INGEST, run["dag_run_id"], "land_data")

    # A worker uploads the log of a task after the task has ended.
    wait_until(lambda: f"s3://{local_aws.LOGS}/" in log(), "the log to come from the bucket")
    assert "Landed 2013-01" in log()
    assert any(
        "task_id=land_data" in uri for uri in Aws(stack.s3_url).s3().sizes(f"s3://{local_aws.LOGS}/dag_id={INGEST}")
    )


def test_a_decision_to_retrain_arrives_in_a_queue_and_leads_to_a_version_that_serves(stack: RunningStack) -> None:
    model = "adult_income"  # that no other test trains: it has no champion yet, whatever ran before
    for month in ("2025-01", "2025-02"):
        stack.ingested(month, model)
    for month, run in (("2025-01", "watched"), ("2025-02", "told")):  # the first model needs outcomes of two months
        stack.start(f"{model}_monitor", run, partition_key=month).raise_for_status()
        assert stack.finished(f"{model}_monitor", run) == "success"

    told = [each["Message"] for each in local_aws.messages(stack.s3_url) if each["Subject"] == model]
    assert [text for text in told if text.startswith("2025-02: Retrain: ")], told
    assert stack.finished(f"{model}_train", f"{model}-first_model-2025-02") == "success"
    assert stack.finished(f"{model}_deploy", f"{model}-version-1") == "success"
    assert stack.stores.ledger.traffic(model).split == {"1": 100}


def test_nothing_of_the_tables_is_in_the_home(stack: RunningStack) -> None:
    assert list((stack.home / "data").rglob("*.parquet")) == []
    assert not any((stack.home / "mlflow" / "artifacts").iterdir())

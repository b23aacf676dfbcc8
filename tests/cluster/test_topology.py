"""The chain on Celery, Postgres and Redis, and what happens to it when parts of that die. In this order."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlops_provider.core import partitions
from mlops_provider.core.names import Kind, Table
from mlops_provider.spec import load_spec
from mlops_provider.stores import predictions
from support.cluster import RunningCluster
from support.stack import MODEL, ROOT, wait_until


@pytest.fixture(scope="session")
def replayed(cluster: RunningCluster) -> str:
    """Two months went through; what the replay printed."""
    run = cluster.mlops("replay", "--months", "2", "--timeout", "600")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


@pytest.fixture(scope="session")
def flights(cluster: RunningCluster, replayed: str) -> list[dict[str, Any]]:
    """Rows that the server can answer."""
    tables = cluster.stores.tables
    columns = load_spec(ROOT / "include/flight_delays/model.yaml").feature_columns
    frame = tables.read(tables.uri(MODEL, Table.FEATURES), partitions=["2013-02"], columns=columns)
    return [{str(name): value for name, value in row.items()} for row in frame.dropna().head(4).to_dict("records")]


def ingest(cluster: RunningCluster, month: str) -> str:
    """Start the ingestion of a month; those before it are there by then, as it begins with their history."""
    for earlier in partitions.between("2013-01", partitions.following(month, -1)):
        cluster.airflow.ingested(earlier)
    run_id = f"cluster-{month}"
    cluster.airflow.start("flight_delays_ingest", run_id, partition_key=month).raise_for_status()
    return run_id


def test_two_months_go_through_the_cluster_and_a_version_is_served(cluster: RunningCluster, replayed: str) -> None:
    assert [line.split()[0] for line in replayed.splitlines() if line.startswith("2013-")] == ["2013-01", "2013-02"]
    assert "Passed the gate as v1" in " ".join(replayed.split())
    for month in ("2013-01", "2013-02"):
        cluster.assert_nothing_lost_or_doubled(month)
    assert sorted(replica.replica.rpartition("-")[0] for replica in cluster.stores.ledger.replicas(MODEL)) == [
        "model-server-1",
        "model-server-2",
    ]
    assert cluster.mlops("audit", "verify").returncode == 0


def test_the_proxy_answers_with_the_version_that_has_the_traffic(
    cluster: RunningCluster, flights: list[dict[str, Any]]
) -> None:
    answer = cluster.predict(flights)

    assert answer.status_code == 200, answer.text
    assert answer.headers["X-MLOps-Version"] == "1"
    assert len(answer.json()["predictions"]) == len(flights)


def test_a_declared_queue_is_served_by_the_workers_that_listen_on_it_with_their_libraries_loaded(
    cluster: RunningCluster,
) -> None:
    wait_until(lambda: cluster.airflow.api.get("/dags/cluster_queues").is_success, "the DAG to be read")
    cluster.airflow.start("cluster_queues", "queues").raise_for_status()

    def served() -> bool:
        return cluster.airflow.tasks("cluster_queues", "queues").get("served", {}).get("state") == "success"

    wait_until(served, "the task on the queue 'heavy'")
    path = "/dags/cluster_queues/dagRuns/queues/taskInstances/served/xcomEntries/return_value"
    loaded = cluster.airflow.api.get(path).raise_for_status().json()["value"]

    assert cluster.airflow.tasks("cluster_queues", "queues")["unserved"]["state"] == "queued"
    assert set(eval(loaded) if isinstance(loaded, str) else loaded) >= {"mlflow", "sklearn", "evidently"}
    cluster.airflow.api.patch("/dags/cluster_queues/dagRuns/queues", json={"state": "failed"}).raise_for_status()


@pytest.mark.parametrize(("month", "whole"), [("2013-03", False), ("2013-04", True)])
def test_a_killed_worker_loses_and_doubles_nothing(
    cluster: RunningCluster, replayed: str, month: str, whole: bool
) -> None:
    run_id = ingest(cluster, month)
    worker = cluster.worker_of("flight_delays_ingest", run_id, "build_features")

    (cluster.kill_all_of if whole else cluster.kill)(worker)
    cluster.restart()

    assert cluster.airflow.finished("flight_delays_ingest", run_id, timeout=400) == "success"
    if whole:
        assert cluster.airflow.tasks("flight_delays_ingest", run_id)["build_features"]["try_number"] == 2
    made = [record for record in cluster.stores.ledger.history(Kind.FEATURES, MODEL) if run_id in (record.key or "")]
    assert len(made) == 1
    cluster.assert_nothing_lost_or_doubled(month)


def test_a_killed_scheduler_goes_on_where_it_was(cluster: RunningCluster, replayed: str) -> None:
    run_id = ingest(cluster, "2013-05")
    cluster.worker_of("flight_delays_ingest", run_id, "validate_data")

    cluster.kill("scheduler")
    cluster.restart()

    assert cluster.airflow.finished("flight_delays_ingest", run_id, timeout=400) == "success"
    cluster.assert_nothing_lost_or_doubled("2013-05")


def test_a_killed_replica_is_not_noticed_by_callers_and_no_answer_goes_unlogged(
    cluster: RunningCluster, flights: list[dict[str, Any]]
) -> None:
    deliver(cluster)
    before = delivered(cluster)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cluster.predict, flights) for _ in range(100)]
        cluster.kill("model-server-1")
        asked += [pool.submit(cluster.predict, flights) for _ in range(100)]
        answers = [each.result() for each in asked]
    cluster.restart()
    wait_until(lambda: len(cluster.stores.ledger.replicas(MODEL)) >= 2, "both replicas to report")

    assert {answer.status_code for answer in answers} == {200}
    deliver(cluster)
    logged = delivered(cluster)
    assert len(logged) == len(set(logged))
    assert {answer.headers["X-MLOps-Request-Id"] for answer in answers} <= {request for request, _ in logged - before}


def deliver(cluster: RunningCluster) -> None:
    tables = cluster.stores.tables
    spool = f"{cluster.settings['MLOPS_SPOOL_DIR']}/{MODEL}"
    predictions.deliver(tables, tables.uri(MODEL, Table.PREDICTION_LOG), spool)


def delivered(cluster: RunningCluster) -> set[tuple[str, int]]:
    tables = cluster.stores.tables
    uri = tables.uri(MODEL, Table.PREDICTION_LOG)
    if tables.version(uri) is None:
        return set()
    frame = tables.read(uri, columns=["request_id", "row"])
    rows = list(frame.itertuples(index=False, name=None))
    assert len(rows) == len(set(rows))
    return set(rows)


def test_a_restarted_postgres_loses_and_doubles_nothing_while_predictions_go_on(
    cluster: RunningCluster, flights: list[dict[str, Any]]
) -> None:
    run_id = ingest(cluster, "2013-06")
    cluster.worker_of("flight_delays_ingest", run_id, "land_data")

    os.kill(cluster.part("postgres").pid, signal.SIGINT)  # its fast shutdown: every session is ended
    wait_until(lambda: not cluster.part("postgres").alive(), "Postgres to end", 60)
    without = [cluster.predict(flights).status_code for _ in range(10)]
    cluster.restart()

    def finished() -> bool:
        cluster.restart()  # whatever else gave up without its database, as Docker's restart policy would
        state = cluster.airflow.run("flight_delays_ingest", run_id)["state"]
        return state in ("success", "failed")

    wait_until(finished, "the month to be ingested", 500)
    assert without == [200] * 10
    assert cluster.airflow.run("flight_delays_ingest", run_id)["state"] == "success"
    cluster.assert_nothing_lost_or_doubled("2013-06")


def test_a_flushed_redis_loses_and_doubles_nothing(cluster: RunningCluster, replayed: str) -> None:
    run_id = ingest(cluster, "2013-07")
    cluster.worker_of("flight_delays_ingest", run_id, "land_data")

    assert cluster.redis("FLUSHALL") == "OK"

    assert cluster.airflow.finished("flight_delays_ingest", run_id, timeout=500) == "success"
    cluster.assert_nothing_lost_or_doubled("2013-07")

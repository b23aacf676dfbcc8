"""The chain on Celery, Postgres and Redis, and what happens to it when parts of that die. In this order."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pytest

from mlops_provider.core import partitions
from mlops_provider.core.names import Kind, Table
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.spec import load_spec
from mlops_provider.steps import ingest as steps
from mlops_provider.stores import predictions
from mlops_provider.stores.suite import Stores
from support.cluster import KEYS, RunningCluster
from support.stack import MODEL, wait_until


def ingest(cluster: RunningCluster, month: str, dag_id: str = "flight_delays_ingest") -> str:
    """Start the ingestion of a month; those before it are there by then, as it begins with their history."""
    for earlier in partitions.between("2013-01", partitions.following(month, -1)):
        cluster.airflow.ingested(earlier)
    run_id = f"cluster-{month}"
    cluster.airflow.start(dag_id, run_id, partition_key=month).raise_for_status()
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


def test_data_models_reports_and_task_logs_lie_in_the_bucket_and_nowhere_else(
    cluster: RunningCluster, replayed: str
) -> None:
    bucket = cluster.settings["MLOPS_TABLES_URI"].removesuffix("/tables")

    found = {part: cluster.s3.sizes(f"{bucket}/{part}") for part in ("tables", "tables/_reports", "artifacts", "logs")}
    log = cluster.airflow.log("flight_delays_ingest", "replay__2013-01", "land_data")

    assert all(found.values()), {part: len(objects) for part, objects in found.items()}
    assert f"{bucket}/logs/" in log
    assert "Landed 2013-01" in log
    assert list((cluster.home / "cluster/volumes").rglob("*.parquet")) == []


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
    before = delivered(cluster)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cluster.predict, flights) for _ in range(100)]
        cluster.kill("model-server-1")
        asked += [pool.submit(cluster.predict, flights) for _ in range(100)]
        answers = [each.result() for each in asked]

    assert {answer.status_code for answer in answers} == {200}
    answered = {answer.headers["X-MLOps-Request-Id"] for answer in answers}
    # A replica moves a segment to S3 some seconds after it was begun; the other one does so for the one that is gone.
    wait_until(
        lambda: answered <= {request for request, _ in delivered(cluster) - before}, "all answers to be logged", 180
    )
    cluster.restart()
    wait_until(lambda: len(cluster.stores.ledger.replicas(MODEL)) >= 2, "both replicas to report")


def delivered(cluster: RunningCluster) -> set[tuple[str, int]]:
    """Deliver what waits on S3; give the request and row of everything that is logged by then."""
    tables = cluster.stores.tables
    uri = tables.uri(MODEL, Table.PREDICTION_LOG)
    predictions.deliver(tables, uri, f"{cluster.settings['MLOPS_SPOOL_URI']}/{MODEL}", cluster.s3)
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


IN_CHUNKS = "2013-08"


@pytest.fixture(scope="session")
def chunked(cluster: RunningCluster, replayed: str) -> str:
    """A month that was ingested in chunks, while one of the workers that shared them was killed; the run's ID."""
    run_id = ingest(cluster, IN_CHUNKS, "cluster_chunks_ingest")
    workers = cluster.workers_of_all("cluster_chunks_ingest", run_id, "build_features_chunk", at_least=2)

    cluster.kill_all_of(workers.pop())
    cluster.restart()

    assert cluster.airflow.finished("cluster_chunks_ingest", run_id, timeout=400) == "success"
    return run_id


def test_chunks_of_a_killed_worker_are_worked_on_again_and_the_month_equals_one_piece(
    cluster: RunningCluster, chunked: str, tmp_path: Path
) -> None:
    chunks = cluster.airflow.mapped("cluster_chunks_ingest", chunked, "build_features_chunk")
    names = [chunk["rendered_map_index"] for chunk in chunks]

    assert (names[0].startswith("rows 1 to "), len(set(names)), len(names)) == (True, 4, 4)
    assert {chunk["queue"] for chunk in chunks} == {"heavy"}
    assert 2 in {chunk["try_number"] for chunk in chunks}
    cluster.assert_nothing_lost_or_doubled(IN_CHUNKS)
    assert contents(cluster.stores) == contents(one_piece(cluster, tmp_path))


def contents(stores: Stores) -> dict[Table, str | None]:
    """Hashes of what the month's tables hold."""
    tables = (Table.RAW, Table.CLEAN, Table.FEATURES)
    return {table: stores.tables.content(stores.tables.uri(MODEL, table), IN_CHUNKS) for table in tables}


def one_piece(cluster: RunningCluster, folder: Path) -> Stores:
    """The same month, without a cut, by the same steps in this process, into tables beside the cluster's."""
    declared = load_spec(cluster.project / "dags/in_chunks/model.yaml")
    spec = declared.model_copy(update={"chunk_rows": None})
    root = f"{cluster.settings['MLOPS_TABLES_URI']}-{uuid4().hex}"  # tables of one ledger are not another's to write
    stores = Stores(tables_uri=root, ledger_url=f"sqlite:///{folder / 'ledger.db'}", s3=cluster.s3)
    clean = cluster.stores.tables.uri(MODEL, Table.CLEAN)
    theirs = TableRef(clean, cluster.stores.tables.version(clean) or 0, IN_CHUNKS)

    landed = steps.land(spec, stores, IN_CHUNKS, origin=Origin("whole", "run", "land_data"))
    steps.validate(spec, stores, IN_CHUNKS, landed, origin=Origin("whole", "run", "validate_data"))
    # The cluster's clean rows: the month before lies beside them.
    steps.build_features(spec, stores, IN_CHUNKS, theirs, origin=Origin("whole", "run", "build_features"))
    stores.ledger.close()
    return stores


def test_scoring_in_chunks_predicts_what_one_piece_did(cluster: RunningCluster, chunked: str) -> None:
    # The features of the chunks announced themselves as any do: scoring in one piece was started.
    def started() -> list[str]:
        runs = cluster.airflow.runs("flight_delays_score")
        return [run["dag_run_id"] for run in runs if run["partition_key"] == IN_CHUNKS]

    wait_until(started, "the scoring to be started")
    assert [cluster.airflow.finished("flight_delays_score", run_id) for run_id in started()] == ["success"]
    before = predicted(cluster)

    cluster.airflow.start("cluster_chunks_score", "chunks", partition_key=IN_CHUNKS).raise_for_status()

    assert cluster.airflow.finished("cluster_chunks_score", "chunks") == "success"
    assert len(cluster.airflow.mapped("cluster_chunks_score", "chunks", "score_batch_chunk")) == 4
    after = predicted(cluster)
    assert {name.split("/")[0] for name in after["scored_by"]} == {"cluster_chunks_score"}
    pd.testing.assert_frame_equal(before.drop(columns="scored_by"), after.drop(columns="scored_by"))


def predicted(cluster: RunningCluster) -> pd.DataFrame:
    tables = cluster.stores.tables
    frame = tables.read(tables.uri(MODEL, Table.PREDICTIONS), partitions=[IN_CHUNKS])
    return frame.sort_values(KEYS, ignore_index=True)


def test_drift_in_chunks_is_that_of_one_piece(cluster: RunningCluster, chunked: str) -> None:
    cluster.airflow.start("cluster_chunks_drift", "chunks", partition_key=IN_CHUNKS).raise_for_status()

    assert cluster.airflow.finished("cluster_chunks_drift", "chunks") == "success"

    names = [
        each["rendered_map_index"]
        for each in cluster.airflow.mapped("cluster_chunks_drift", "chunks", "detect_drift_chunk")
    ]
    assert names[0] == f"current {IN_CHUNKS}, rows 1 to 8,192"
    records = cluster.stores.ledger.history(Kind.DRIFT, MODEL)
    keys = {
        (record.key or "").split("/")[2]: record for record in records if "cluster_chunks_drift/" in (record.key or "")
    }
    found = {task: record.payload for task, record in keys.items()}
    told = ("rows", "alarm", "drifted", "reasons", "features", "reference", "predictions")
    assert {name: found["detect_drift"][name] for name in told} == {name: found["in_one_piece"][name] for name in told}
    # Evidently goes through categories in the order of their hashes, which is another one in each process.
    scores = [[column["score"] for column in found[task]["columns"]] for task in ("detect_drift", "in_one_piece")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)
    assert len(scores[0]) > 16

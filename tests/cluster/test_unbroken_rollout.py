"""A canary whose worker, triggerer and scheduler die one after the other, while callers keep asking."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx

from mlops_provider.core.names import Header, Kind
from mlops_provider.spec import load_spec
from support.cluster import RunningCluster
from support.stack import MODEL, wait_until

THROUGH = "2013-03"
DEPLOY, TASK = "cluster_deploy", "deploy_model"


@contextmanager
def callers(cluster: RunningCluster, rows: list[dict[str, Any]]) -> Iterator[list[httpx.Response]]:
    """Ask the proxy again and again; a request that gets no answer raises in the end."""
    over, answers, failed = threading.Event(), list[httpx.Response](), list[Exception]()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                answers.append(cluster.predict(rows))
            except httpx.HTTPError as error:
                failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []


def test_a_rollout_goes_on_where_it_was_after_its_worker_the_triggerer_and_the_scheduler_died(
    cluster: RunningCluster, flights: list[dict[str, Any]]
) -> None:
    ledger, airflow = cluster.stores.ledger, cluster.airflow
    airflow.ingested(THROUGH)
    before = len(ledger.history(Kind.TRAFFIC, MODEL))
    champion = ledger.traffic(MODEL).split
    airflow.start("cluster_train", "second", conf={"through": THROUGH, "trials": 1}).raise_for_status()
    assert airflow.finished("cluster_train", "second", timeout=400) == "success"
    version = ledger.latest(Kind.REGISTRATION, MODEL).payload["version"]
    run_id = f"{MODEL}-version-{version}"

    def task() -> dict[str, Any]:
        return airflow.tasks(DEPLOY, run_id)[TASK]

    def waits_with(least: int) -> int:
        """Wait until the version has that share, or more, and its task no worker; give the share."""
        found = 0

        def waits() -> bool:
            nonlocal found
            found = ledger.traffic(MODEL).split.get(version, 0)
            return found >= least and task()["state"] == "deferred"

        wait_until(waits, f"the rollout to wait with {least} % or more", 300)
        return found

    with callers(cluster, flights) as answers:
        worker = cluster.worker_of(DEPLOY, run_id, TASK)
        wait_until(lambda: ledger.traffic(MODEL).split.get(version) == 10, "the first step")
        cluster.kill_all_of(worker)
        cluster.restart()

        share = waits_with(10)
        cluster.kill("triggerer")
        time.sleep(10)  # longer than a look takes to be due: nothing but a triggerer brings the task back
        without_triggerer = task()
        held = cluster.processes_of(without_triggerer)
        pool = airflow.api.get("/pools/default_pool").raise_for_status().json()
        cluster.restart()

        waits_with(share + 1)
        cluster.kill("scheduler")
        cluster.restart()
        assert airflow.finished(DEPLOY, run_id, timeout=400) == "success"

    moves = ledger.history(Kind.TRAFFIC, MODEL)[before:]
    splits = {move.payload["generation"]: move.payload["split"] for move in moves}
    assert [move.payload["settled"] for move in moves] == [False, False, False, False, True]
    assert list(splits.values()) == [
        {**champion, version: 0},
        {**dict.fromkeys(champion, 90), version: 10},
        {**dict.fromkeys(champion, 50), version: 50},
        {version: 100},
        {version: 100},
    ]
    assert [each.payload["version"] for each in ledger.history(Kind.PROMOTION, MODEL)][-1:] == [version]
    assert [run["dag_run_id"] for run in airflow.runs(DEPLOY)] == [run_id]
    soak = load_spec(cluster.project / "dags/slowly/model.yaml").rollout_policy.soak.seconds
    moments = [datetime.fromisoformat(move.recorded_at) for move in moves]
    assert min((after - now).total_seconds() for now, after in pairwise(moments[1:])) >= soak
    # One try died with its worker; neither the triggerer's death nor the scheduler's cost another.
    assert task()["try_number"] == 2
    assert (without_triggerer["state"], held) == ("deferred", [])
    assert (pool["running_slots"], pool["queued_slots"], pool["deferred_slots"]) == (0, 0, 1)
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}
    assert {answer.headers[Header.VERSION] for answer in answers} == {*champion, version}
    for answer in answers:
        answered = splits.get(int(answer.headers[Header.GENERATION]), champion)
        assert answered[answer.headers[Header.VERSION]] > 0
    assert ledger.verify() is None

"""Rollouts, rollbacks and the prediction log with real server processes."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from mlops_provider.core.names import Header, Kind, Table
from mlops_provider.exceptions import ServingCheckError, StoreUnavailableError
from mlops_provider.steps.deploy import check_serving, deploy
from mlops_provider.stores import predictions
from mlops_provider.stores.replicas import Replica
from mlops_provider.targets import Server
from mlops_provider.targets import server as server_target
from support.serving import COLUMNS, MODEL, ServerProcess, World, frame, origin, records
from support.stack import wait_until

# MLflow 3.17 on SQLAlchemy 2.1.
pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path, empty_mlflow: Path) -> Iterator[World]:
    made = World(tmp_path, empty_mlflow)
    made.land_features()
    yield made
    made.close()


class Callers:
    """Threads that ask again and again, each request under its own ID."""

    def __init__(self, server: ServerProcess, threads: int = 2, pause: float = 0.02) -> None:
        self.pause = pause
        self.url = f"{server.url}/invocations"
        self.answers: list[httpx.Response] = []
        self.sent: list[str] = []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def ask(self, number: int) -> None:
        with httpx.Client(timeout=10) as client:
            for count in range(1_000_000):
                if self.done.is_set():
                    return
                request_id = f"{number}-{count}"
                self.sent.append(request_id)
                try:
                    answer = client.post(self.url, json=records(2), headers={Header.REQUEST_ID: request_id})
                except httpx.TransportError:
                    return
                self.answers.append(answer)
                time.sleep(self.pause)

    def stop(self) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()


def delivered(world: World) -> list[tuple[str, int]]:
    uri = world.tables.uri(MODEL, Table.PREDICTION_LOG)
    predictions.deliver(world.tables, uri, world.spool / MODEL)
    log = world.tables.read(uri)
    return list(zip(log["request_id"], log["row"], strict=True))


def test_a_version_that_only_one_replica_refuses_is_not_released(world: World) -> None:
    world.register(1)
    world.register(2, recorded=False)
    world.serve("a")
    target, spec = world.target(), world.spec()
    deploy(spec, world.stores, "1", target=target, origin=origin(run="one"))
    world.record("2", champion="1")
    elsewhere = world.folder / "nowhere"
    elsewhere.mkdir()
    world.serve("b", registry_uri=f"sqlite:///{elsewhere}/mlflow.db")

    with pytest.raises(ServingCheckError, match="Version 2 was taken back"):
        check_serving(spec, world.stores, "2", target=target, origin=origin("check_serving", "two"), patience=15)

    assert world.ledger.traffic(MODEL).split == {"1": 100}
    incident = world.ledger.latest(Kind.INCIDENT, MODEL).payload
    assert (incident["version"], incident["most"]) == ("2", 0)


def test_a_killed_replica_is_left_out_and_without_any_the_rollout_fails_in_words(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_target, "ALIVE_WITHIN", 5.0)
    world.register(1)
    servers = [world.serve("a"), world.serve("b")]
    target, spec = world.target(servers[0]), world.spec()
    check = check_serving(spec, world.stores, "1", target=target, origin=origin("check_serving"))
    servers[1].end(signal.SIGKILL)

    deploy(spec, world.stores, "1", target=target, origin=origin())

    assert len(world.ledger.get(check).payload["replicas"]) == 2
    assert {server.score().status_code for server in servers[:1]} == {200}
    world.register(2, recorded=False)
    world.record("2", champion="1")
    servers[0].end(signal.SIGKILL)
    with pytest.raises(StoreUnavailableError, match="mlops serve"):
        deploy(spec, world.stores, "2", target=target, origin=origin(run="two"), patience=10)


def test_every_acknowledged_prediction_is_delivered_once_after_kill_9(world: World) -> None:
    world.register(1)
    world.settle({"1": 100})
    server = world.serve()
    server.wait_for_generation(1)

    callers = Callers(server, threads=4, pause=0)
    time.sleep(1.5)
    server.end(signal.SIGKILL)
    callers.stop()
    again = world.serve()
    again.wait_for_generation(1)
    again.score(records(1), headers={Header.REQUEST_ID: "after"})
    again.end()
    rows = delivered(world)
    rows_once_more = delivered(world)

    acknowledged = {(answer.headers[Header.REQUEST_ID], row) for answer in callers.answers for row in (0, 1)}
    assert len(acknowledged) > 20
    assert acknowledged | {("after", 0)} <= set(rows)
    assert {request for request, _ in rows} <= {*callers.sent, "after"}
    assert len(rows) == len(set(rows)) == len(rows_once_more)


def test_every_acknowledged_prediction_of_several_processes_is_delivered_once_after_kill_9(world: World) -> None:
    world.register(1)
    world.settle({"1": 100})
    server = world.serve("many", processes=2)
    target = world.target(server)
    wait_until(lambda: [each.generation for each in target.observe()] == [1, 1], "both processes to serve")

    callers = Callers(server, threads=4, pause=0)
    told = [_told(server, number) for number in range(40)]
    time.sleep(1)
    supervisor = psutil.Process(server.process.pid)
    processes = [supervisor, *supervisor.children(recursive=True)]
    for process in processes:
        process.kill()
    callers.stop()
    # A delivery leaves the segments of a process that still ends for the next one.
    wait_until(lambda: all(map(_ended, processes)), "every process to end")
    rows = delivered(world)
    rows_once_more = delivered(world)

    acknowledged = {(answer.headers[Header.REQUEST_ID], row) for answer in callers.answers for row in (0, 1)}
    assert len(acknowledged) > 20
    assert acknowledged <= set(rows)
    assert {request for request, _ in rows} <= set(callers.sent)
    assert len(rows) == len(set(rows)) == len(rows_once_more)
    outcomes = world.tables.read(world.tables.uri(MODEL, Table.OUTCOME_LOG))
    assert sorted(outcomes["request_id"]) == sorted(told)


def _ended(process: psutil.Process) -> bool:
    """Whether a killed process holds no file any more: its threads end one by one, and nobody may collect it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() == 1
    return True


def _told(server: ServerProcess, number: int) -> str:
    """Tell an outcome, which is acknowledged; on a connection of its own, so that either process may get it."""
    outcome = {"request_id": f"told-{number}", "outcome": 1}
    answer = httpx.post(f"{server.url}/models/{MODEL}/outcomes", json={"outcomes": [outcome]}, verify=False)
    assert answer.json() == {"accepted": 1}
    return outcome["request_id"]


def test_a_full_disk_stops_the_answers_in_words_until_there_is_space(world: World) -> None:
    world.register(1)
    world.settle({"1": 100})
    server = world.serve(largest_file=400_000)
    server.wait_for_generation(1)

    answers = [server.score(records(200)) for _ in range(20)]
    not_ready = server.get("/ready")

    assert answers[0].status_code == 200
    assert answers[-1].status_code == 503
    assert "prediction log can't be written" in answers[-1].json()["message"]
    assert not_ready.status_code == 503
    assert server.get("/health").status_code == 200
    deadline = time.monotonic() + 20
    while server.score(records(200)).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    server.end()
    answered = 200 * sum(answer.status_code == 200 for answer in answers) + 200
    assert len(delivered(world)) == answered


def test_a_graceful_end_answers_what_is_under_way_and_seals_the_log(world: World) -> None:
    world.register(1)
    world.settle({"1": 100})
    server = world.serve()
    server.wait_for_generation(1)

    callers = Callers(server)
    time.sleep(0.5)
    code = server.end()
    callers.stop()

    assert code == 0
    assert {answer.status_code for answer in callers.answers} == {200}
    assert len(delivered(world)) >= 2 * len(callers.answers)
    assert not list(world.spool.rglob("*.open"))


def test_several_processes_behind_a_token_are_released_to_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a-token-of-some-length"
    monkeypatch.setenv("MLOPS_SERVER_TOKENS", f"airflow {secret}")
    world.register(1)
    server = world.serve("many", processes=2)
    target = Server(server.url, model=MODEL, ledger=world.ledger, token=secret)
    wait_until(lambda: len(target.observe()) == 2, "both processes")
    stranger, known = world.target(server), {"Authorization": f"Bearer {secret}"}

    deploy(world.spec(), world.stores, "1", target=target, origin=origin(run="one"))

    replicas = target.observe()
    assert {replica.replica.rpartition("-")[0] for replica in replicas} == {"many-1", "many-2"}
    assert len({server.url, *(replica.url for replica in replicas)}) == 3
    assert server.score(headers=known).status_code == 200
    assert server.score().status_code == 401
    with pytest.raises(StoreUnavailableError, match="refused our token"):
        stranger.predict(frame(1)[list(COLUMNS)])
    children = psutil.Process(server.process.pid).children()
    next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
    wait_until(lambda: len(_answering(replicas, known)) == 1, "one process to be gone")
    assert server.score(headers=known).status_code == 200
    wait_until(lambda: len(_answering(replicas, known)) == 2, "it to be started again")
    assert server.end() == 0
    assert _answering(replicas, known) == []


def _answering(replicas: Sequence[Replica], headers: dict[str, str]) -> list[str]:
    """Those replicas that answer at their own address."""
    found = []
    for replica in replicas:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{replica.url}/ready", headers=headers, timeout=2)
            found.append(replica.url)
    return found

"""A real server process over a real ledger and a real MLflow, spoken with over HTTP."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from mlops_provider.core.columns import Column
from mlops_provider.core.names import Environment, Header
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.serving import run
from mlops_provider.serving.app import ModelServerApp
from mlops_provider.serving.columns import Arrays
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.snapshot import LoadedVersion, Snapshot
from mlops_provider.stores.predictions import SegmentWriter
from support.serving import COLUMNS, MODEL, World, frame, records
from support.stack import ROOT, free_port, wait_until


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("serving"), empty_mlflow)
    made.register(1)
    made.register(2)
    made.settle({"1": 100})
    made.serve().wait_for_generation(1)
    yield made
    made.close()


@pytest.fixture
def own_world(tmp_path: Path, empty_mlflow: Path) -> Iterator[World]:
    made = World(tmp_path, empty_mlflow)
    yield made
    made.close()


def test_answers_are_the_probabilities_of_the_registered_model(world: World) -> None:
    response = world.servers[0].score(records(20), headers={Header.REQUEST_ID: "first"})

    assert response.status_code == 200
    assert response.json() == {"predictions": pytest.approx(world.expected("1", frame(20, 3)), abs=1e-12)}
    assert response.headers[Header.VERSION] == "1"
    assert response.headers[Header.REQUEST_ID] == "first"
    assert int(response.headers[Header.GENERATION]) >= 1


def test_csv_and_json_give_the_same_answers(world: World) -> None:
    body = frame(20, 3)[list(COLUMNS)].to_csv(index=False)

    answer = httpx.post(f"{world.servers[0].url}/invocations", content=body, headers={"Content-Type": "text/csv"})

    assert answer.json() == world.servers[0].score(records(20)).json()


def test_the_model_answers_under_its_own_path_too(world: World) -> None:
    url = f"{world.servers[0].url}/models/{MODEL}/invocations"

    assert httpx.post(url, json=records(2)).status_code == 200
    unknown = httpx.post(f"{world.servers[0].url}/models/other/invocations", json=records(2))
    assert unknown.status_code == 404
    assert unknown.json()["message"] == f"No such model here; served are: {MODEL}."


def test_it_tells_its_state(world: World) -> None:
    server = world.servers[0]

    assert [server.get(path).status_code for path in ("/ping", "/health", "/ready", "/version")] == [200] * 4
    state = server.get("/traffic").json()[MODEL]
    assert state["ready"] is True
    assert state["errors"] == []
    assert state["replica"].startswith("server-")
    assert [each.url for each in world.ledger.replicas(MODEL, 5)] == [server.url]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b'{"dataframe_records": [{"distance": 1}]}', 400),
        (b'{"dataframe_records": [{"distance": "far", "seats": 1, "carrier": "AA"}]}', 400),
        (b'{"dataframe_records": [{"distance": null, "seats": 1, "carrier": "AA"}]}', 400),
        (b" " * (10 * 2**20 + 1), 413),
    ],
    ids=["no JSON", "columns", "types", "a missing cell that the model can't take", "too large"],
)
def test_bad_requests_get_a_sentence_and_no_trace(world: World, content: bytes, status: int) -> None:
    response = httpx.post(
        f"{world.servers[0].url}/invocations", content=content, headers={"Content-Type": "application/json"}
    )

    assert response.status_code == status
    assert response.json()["message"].endswith(".")
    assert "Traceback" not in response.text


def test_a_body_without_announced_length_is_bounded_too(world: World) -> None:
    chunks = (b" " * 2**20 for _ in range(11))

    response = httpx.post(f"{world.servers[0].url}/invocations", content=chunks)

    assert response.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/invocations", {}, 405),
        ("POST", "/elsewhere", {}, 404),
        ("POST", "/invocations", {"Content-Type": "application/xml"}, 415),
        ("POST", "/invocations", {Header.REQUEST_ID: "a b"}, 400),
        ("POST", "/invocations", {Header.VERSION: "77"}, 404),
    ],
)
def test_wrong_addresses_and_headers_get_a_sentence(
    world: World, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = httpx.request(method, f"{world.servers[0].url}{path}", json=records(1), headers=headers)

    assert response.status_code == status
    assert response.json()["message"].endswith(".")


def test_a_split_is_kept_and_a_request_id_always_meets_the_same_version(world: World) -> None:
    server = world.servers[0]
    generation = world.settle({"1": 70, "2": 30}).generation
    server.wait_for_generation(generation)

    chosen = {f"r{n}": server.score(headers={Header.REQUEST_ID: f"r{n}"}).headers[Header.VERSION] for n in range(200)}
    again = {key: server.score(headers={Header.REQUEST_ID: key}).headers[Header.VERSION] for key in list(chosen)[:20]}
    grown = world.settle({"1": 40, "2": 60})
    server.wait_for_generation(grown.generation)
    later = {key: server.score(headers={Header.REQUEST_ID: key}).headers[Header.VERSION] for key in chosen}

    assert 35 <= Counter(chosen.values())["2"] <= 85
    assert again.items() <= chosen.items()
    assert {key for key, version in chosen.items() if version == "2"} <= {k for k, v in later.items() if v == "2"}


def test_a_loaded_version_without_traffic_answers_only_when_pinned(world: World) -> None:
    server = world.servers[0]
    server.wait_for_generation(world.settle({"1": 100, "2": 0}).generation)

    pinned = server.score(records(5), headers={Header.VERSION: "2"})

    assert pinned.headers[Header.VERSION] == "2"
    assert pinned.json() == {"predictions": pytest.approx(world.expected("2", frame(5, 3)), abs=1e-12)}
    assert {server.score().headers[Header.VERSION] for _ in range(20)} == {"1"}


def test_it_goes_on_serving_while_ledger_and_registry_are_away_and_follows_when_they_are_back(
    own_world: World, postgres: Callable[[str], str]
) -> None:
    own_world.use_ledger_at(postgres("away"))
    own_world.register(1)
    own_world.register(2)
    own_world.settle({"1": 100})
    server = own_world.serve()
    server.wait_for_generation(1)
    there, away = own_world.folder / "mlflow.db", own_world.folder / "mlflow-away.db"
    address = sa.make_url(own_world.ledger_url)
    by = sa.create_engine(address.set(database="postgres"), isolation_level="AUTOCOMMIT")

    with by.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {address.database} ALLOW_CONNECTIONS false")
        sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        connection.exec_driver_sql(sessions, (str(address.database),))
        there.rename(away)
        wait_until(lambda: server.get("/traffic").json()[MODEL]["errors"], "the server to notice")
        answers = [server.score() for _ in range(5)]
        ready = server.get("/ready").status_code
        connection.exec_driver_sql(f"ALTER DATABASE {address.database} ALLOW_CONNECTIONS true")
        away.rename(there)
    by.dispose()
    server.wait_for_generation(own_world.settle({"2": 100}).generation)

    assert {(answer.status_code, answer.headers[Header.VERSION]) for answer in answers} == {(200, "1")}
    assert ready == 200
    assert server.score().headers[Header.VERSION] == "2"
    own_world.ledger.close()


def test_without_any_version_it_lives_but_is_not_ready(own_world: World) -> None:
    server = own_world.serve()

    assert server.get("/health").status_code == 200
    wait_until(lambda: "deploy a version" in server.score().json()["message"], "the ledger to be read")
    for response in (server.get("/ready"), server.score()):
        assert response.status_code == 503
        assert "deploy a version" in response.json()["message"]


def test_versions_without_a_passing_gate_get_no_traffic(own_world: World) -> None:
    own_world.register(1)
    own_world.register(2, passed=False)
    own_world.register(3, recorded=False)
    own_world.settle({"1": 100})
    server = own_world.serve()
    server.wait_for_generation(1)

    for version, words in (("2", "no passing verdict"), ("3", "was not registered through the gate")):
        own_world.settle({"1": 50, version: 50})
        deadline = time.monotonic() + 10
        while words not in (error := own_world.ledger.replicas(MODEL, 5)[0].error):
            assert time.monotonic() < deadline, error
            time.sleep(0.1)
        assert f"Version {version} is refused:" in error
        assert {server.score().headers[Header.VERSION] for _ in range(20)} == {"1"}
        assert server.get("/traffic").json()[MODEL]["generation"] == 1


def test_the_first_version_answers_only_when_pinned_until_it_settles(own_world: World) -> None:
    own_world.register(1)
    own_world.settle({"1": 100}, settled=False)
    server = own_world.serve()
    server.wait_for_generation(1)

    assert server.score().status_code == 503
    assert server.score(headers={Header.VERSION: "1"}).status_code == 200
    assert server.get("/ready").status_code == 503

    server.wait_for_generation(own_world.settle({"1": 100}).generation)
    assert server.score().status_code == 200


def test_a_version_that_cannot_be_loaded_is_tried_again(own_world: World) -> None:
    own_world.register(1)
    files = own_world.folder / "artifacts"
    files.rename(own_world.folder / "hidden")
    own_world.settle({"1": 100})
    server = own_world.serve()
    time.sleep(1)
    assert server.get("/ready").status_code == 503

    (own_world.folder / "hidden").rename(files)

    server.wait_for_generation(1)
    assert server.score().status_code == 200


def test_a_taken_port_is_told_in_words(world: World) -> None:
    port = int(world.servers[0].url.rsplit(":", 1)[1])

    with pytest.raises(ConfigurationError, match=f"can't listen on 127.0.0.1 port {port}"):
        run([MODEL], port=port, ledger_url=world.ledger_url, registry_uri=world.registry_uri, spool_dir=world.spool)


def test_several_models_need_a_name_in_the_path(own_world: World) -> None:
    own_world.register(1)
    own_world.settle({"1": 100})
    server = own_world.serve(models=[MODEL, "another"])
    server.wait_for_generation(1)

    assert server.score().status_code == 400
    assert httpx.post(f"{server.url}/models/{MODEL}/invocations", json=records(1)).status_code == 200
    assert server.get("/ready").status_code == 200  # the other one waits for its first version, which harms nobody
    assert "deploy a version" in server.get("/traffic").json()["another"]["errors"][0]

    own_world.ledger.propose_traffic("another", {"1": 100}, settled=False, expected_generation=0)
    time.sleep(1.5)

    assert server.get("/ready").status_code == 200  # nor does its first rollout harm the others


def test_more_requests_than_may_wait_are_sent_away(tmp_path: Path) -> None:
    released = threading.Event()

    def slowly(columns: Arrays) -> np.ndarray:
        released.wait(10)
        return np.full(len(columns["distance"]), 0.5)

    columns = (Column("distance", "number"),)
    slow = LoadedVersion("1", slowly, columns)
    follower = SimpleNamespace(model=MODEL, trouble="", snapshot=Snapshot(MODEL, 1, {"1": 100}, {"1": slow}))
    log = SegmentWriter(tmp_path, "server")
    app = ModelServerApp([ServedModel(follower, log, ServingPolicy(most_waiting=1))], workers=1)

    async def ask_four_times() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            ask = partial(client.post, "/invocations", json={"inputs": {"distance": [1.0]}})
            asked = [asyncio.create_task(ask())]
            await asyncio.sleep(0.1)  # the first one is being scored, not waiting
            asked += [asyncio.create_task(ask()) for _ in range(3)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            released.set()
            return [await each for each in asked]

    answers = asyncio.run(ask_four_times())
    app.pool.shutdown()
    log.close()

    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
    assert next(answer for answer in answers if answer.status_code == 429).headers["Retry-After"] == "1"


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_replica_reports_the_address_it_is_told_to_advertise(own_world: World, by: str) -> None:
    told = "https://models.example/replicas/a"
    own_world.spec()
    command = [sys.executable, "-m", "mlops_provider.cli.main", "serve", "use_case/model.yaml", "--port", free_port()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "plugins"),
        Environment.LEDGER_URL: own_world.ledger_url,
        Environment.REGISTRY_URI: own_world.registry_uri,
        Environment.SPOOL_DIR: str(own_world.spool),
    }
    if by == "option":
        command += ["--advertised-url", f"{told}/"]
        environment["MLOPS_ADVERTISED_URL"] = "http://elsewhere"
    else:
        environment["MLOPS_ADVERTISED_URL"] = told

    with subprocess.Popen(command, cwd=own_world.folder, env=environment, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: own_world.ledger.replicas(MODEL), "a heartbeat")
        finally:
            process.terminate()

    assert [replica.url for replica in own_world.ledger.replicas(MODEL, 120)] == [told]


def test_an_advertised_address_without_a_scheme_is_refused(own_world: World) -> None:
    with pytest.raises(ConfigurationError, match="must begin with http:// or https://, and is 'models:8090'"):
        run(
            [MODEL],
            ledger_url=own_world.ledger_url,
            registry_uri=own_world.registry_uri,
            spool_dir=own_world.spool,
            advertised_url="models:8090",
        )

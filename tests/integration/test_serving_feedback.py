"""Callers tell the server what became of its predictions; the log knows entities by keys, or pseudonyms of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from mlops_provider.core.columns import Column
from mlops_provider.core.names import Header
from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.serving.app import ModelServerApp
from mlops_provider.serving.process import serve
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.snapshot import LoadedVersion, Snapshot
from mlops_provider.serving.supervisor import Settings
from mlops_provider.serving.tokens import Tokens
from mlops_provider.stores.predictions import SegmentWriter, deliver
from mlops_provider.stores.tables import Tables

PATH = "/models/visits/outcomes"
KEYED = ServingPolicy(keys=("customer", "day"), binary=True)
KEYS = {"customer": 7, "day": "2013-01-02"}
SECRET = "2026 a-secret-of-some-length"


class Made:
    """A server in this process, and its log."""

    def __init__(self, folder: Path, policy: ServingPolicy, secrets: str, tokens: str) -> None:
        columns = (Column("distance", "number"), Column("customer", "whole"))
        version = LoadedVersion("1", lambda arrays: np.asarray(arrays["distance"] / 10), columns)
        follower: Any = SimpleNamespace(
            model="visits", trouble="", unreleased=False, replica="server-1", start=lambda: None, stop=lambda: None,
            snapshot=Snapshot("visits", 4, {"1": 100}, {"1": version}),
        )  # fmt: skip
        self.spool = folder / "spool"
        pseudonyms = Pseudonyms.of(policy.pseudonymise, secrets)
        self.log = SegmentWriter(self.spool, "server")
        self.served = ServedModel(follower, self.log, policy, pseudonyms=pseudonyms)
        self.client = TestClient(ModelServerApp([self.served], tokens=Tokens(tokens), metrics=self.served.metrics))
        self.client.__enter__()
        self.open = True

    def tell(self, *outcomes: Any, **headers: str) -> Any:
        return self.client.post(PATH, json={"outcomes": outcomes}, headers=headers)

    def end(self) -> None:
        if self.open:
            self.client.__exit__(None, None, None)
        self.open = False

    def logged(self) -> list[dict[str, Any]]:
        """End the server and give what it logged."""
        self.end()
        files = sorted(self.log.folder.glob("*.sealed"))
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


Make = Callable[..., Made]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Made] = []

    def maker(policy: ServingPolicy = KEYED, secrets: str = "", tokens: str = "") -> Made:
        made.append(Made(tmp_path, policy, secrets, tokens))
        return made[-1]

    yield maker
    for each in made:
        each.end()


def test_outcomes_are_in_the_log_before_they_are_accepted(make: Make) -> None:
    made = make()

    answer = made.tell(
        {"request_id": "r-1", "outcome": 1, "observed_at": "2013-01-05T02:00:00+02:00"},
        {"request_id": "r-2", "row": 3, "outcome": 0},
        {"keys": KEYS, "outcome": 1},
        {"keys": {**KEYS, "day": "0001-01-01T00:00+14:00"}, "outcome": 1},
    )

    assert (answer.status_code, answer.json()) == (200, {"accepted": 4})
    first, second, third, unheard_of = made.logged()
    assert (first["request_id"], first["row"], first["outcome"]) == ("r-1", 0, 1.0)
    assert first["observed_at"] == "2013-01-05T00:00:00+00:00"
    assert (second["row"], second["observed_at"]) == (3, second["received_at"])
    assert (third["request_id"], third["keys"]) == (None, '["7","2013-01-02"]')
    assert unheard_of["keys"] == '["7","0001-01-01T00:00+14:00"]'


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (7, "it must be an object"),
        ({"request_id": "r", "outcome": 1, "extra": 1}, "it must be an object with some of"),
        ({"outcome": 1}, "it must name either request_id or keys"),
        ({"request_id": "r", "keys": KEYS, "outcome": 1}, "it must name either request_id or keys"),
        ({"request_id": "two words", "outcome": 1}, "request_id must be 1 to 128"),
        ({"request_id": "r", "row": -1, "outcome": 1}, "row must be the number of a row"),
        ({"request_id": "r", "row": True, "outcome": 1}, "row must be the number of a row"),
        ({"keys": {"customer": 7}, "outcome": 1}, "keys must be an object of customer, day"),
        ({"keys": {"customer": None, "day": "x"}, "outcome": 1}, "keys must hold texts, numbers or flags"),
        ({"keys": KEYS, "row": 1, "outcome": 1}, "row belongs to a request_id"),
        ({"request_id": "r"}, "outcome must be a finite number"),
        ({"request_id": "r", "outcome": True}, "outcome must be a finite number"),
        ({"request_id": "r", "outcome": 10**400}, "64 bits|not valid JSON|outcome must be a finite number"),
        ({"request_id": "r", "outcome": 0.5}, "outcome must be 0 or 1"),
        ({"request_id": "r", "outcome": 1, "observed_at": None}, "observed_at must be a time"),
        ({"request_id": "r", "outcome": 1, "observed_at": "yesterday"}, "observed_at must be a time"),
        ({"request_id": "r", "outcome": 1, "observed_at": "0001-01-01T00:00:00+23:00"}, "observed_at must"),
    ],
)
def test_a_wrong_outcome_is_refused_with_all_others(make: Make, outcome: Any, said: str) -> None:
    made = make()

    answer = made.tell({"request_id": "good", "outcome": 1}, outcome)

    assert answer.status_code == 400
    assert any(each in answer.json()["message"] for each in said.split("|")), answer.text
    assert made.logged() == []


def test_nothing_is_observed_in_the_future(make: Make) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()

    answer = make().tell({"request_id": "r", "outcome": 1, "observed_at": tomorrow})

    assert "must lie between 1970 and now" in answer.json()["message"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"outcomes": []}', "application/json", 400),
        (b'{"outcomes": [1], "more": 1}', "application/json", 400),
        (b"a,b", "text/csv", 415),
        (b"x" * (10 * 2**20 + 1), "application/json", 413),
    ],
)
def test_a_body_that_is_none_is_refused(make: Make, content: bytes, kind: str, status: int) -> None:
    assert make().client.post(PATH, content=content, headers={"Content-Type": kind}).status_code == status


def test_who_has_no_token_tells_nothing(make: Make) -> None:
    made = make(tokens="web a-token-of-some-length")

    assert made.tell({"request_id": "r", "outcome": 1}).status_code == 401
    assert made.tell({"request_id": "r", "outcome": 1}, Authorization="Bearer a-token-of-some-length").is_success


def test_a_row_that_names_its_keys_is_known_by_them(make: Make) -> None:
    made = make()
    rows = [{"distance": 1.0, **KEYS}, {"distance": 2.0, "customer": 7.0, "day": "2013-01-03"}]

    assert made.client.post("/invocations", json={"dataframe_records": rows}).is_success
    assert made.client.post("/invocations", json={"instances": [{"distance": 3.0, "customer": 8}]}).is_success

    assert [row.get("keys") for row in made.logged()] == ['["7","2013-01-02"]', '["7","2013-01-03"]', None]


def test_a_log_holds_pseudonyms_that_tell_the_same_entity_by_the_same_text(make: Make) -> None:
    policy = ServingPolicy(keys=("customer", "day"), pseudonymise=("customer",), sticky=("customer",))
    made = make(policy, SECRET)
    number = 74_185_296_307

    for distance in (1.0, 2.0):
        row = {"distance": distance, "customer": number, "day": "2013-01-02"}
        assert made.client.post("/invocations", json={"dataframe_records": [row]}).json() == {
            "predictions": [distance / 10]
        }
    assert made.tell({"keys": {"customer": number, "day": "2013-01-02"}, "outcome": 3.5}).is_success

    first, second, outcome = rows = made.logged()
    assert str(number) not in json.dumps(rows)
    assert first["keys"] == second["keys"] == outcome["keys"]
    assert first["features"]["customer"] == second["features"]["customer"]
    assert first["features"]["customer"].startswith("2026:")


def test_a_server_that_is_to_make_pseudonyms_does_not_start_without_a_secret(tmp_path: Path) -> None:
    settings = Settings(
        models=("visits",), host="127.0.0.1", port=0, ledger_url=f"sqlite:///{tmp_path}/ledger.db",
        registry_uri=f"sqlite:///{tmp_path}/mlflow.db", spool_dir=tmp_path, spool_uri="", name="server",
        advertised_url="", workers=1, threads=1, policies={"visits": ServingPolicy(pseudonymise=("customer",))},
    )  # fmt: skip

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ConfigurationError, match="set MLOPS_PSEUDONYM_KEYS to `<id> <secret>`"),
    ):
        serve(settings, [listener])

    assert list(tmp_path.iterdir()) == []


def test_each_outcome_is_delivered_once_beside_the_predictions(make: Make, tmp_path: Path) -> None:
    made, tables = make(), Tables(str(tmp_path / "tables"))
    uri = tables.uri("visits", "prediction_log")
    row = {"distance": 1.0, **KEYS}
    asked = made.client.post("/invocations", json={"dataframe_records": [row]}, headers={Header.REQUEST_ID: "r-1"})
    assert asked.is_success
    made.tell({"request_id": "r-1", "outcome": 1}, {"keys": KEYS, "outcome": 0})
    made.end()
    (sealed,) = made.spool.rglob("*.sealed")
    kept = sealed.read_bytes()

    first = deliver(tables, uri, made.spool)
    sealed.write_bytes(kept)  # its delivery ended before the file was removed
    second = deliver(tables, uri, made.spool)

    assert (first.rows, first.segments, first.outcomes) == (1, 1, 2)
    assert (second.rows, second.outcomes) == (0, 0)
    told = tables.read(tables.uri("visits", "outcome_log"))
    assert told["outcome"].tolist() == [1.0, 0.0]
    assert told["keys"].tolist() == [None, '["7","2013-01-02"]']
    assert list(tables.read(uri)["request_id"]) == ["r-1"]

"""The server's HTTP side over models made here: protocols, tokens, deadlines, fallback, shadows, metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from mlops_provider.core.columns import Column
from mlops_provider.core.latency import bucket
from mlops_provider.core.names import Arm, Header
from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.serving import tokens as tokens_module
from mlops_provider.serving.app import ModelServerApp
from mlops_provider.serving.columns import Arrays
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.snapshot import LoadedVersion, Snapshot
from mlops_provider.serving.tokens import OPEN_PATHS, Tokens
from mlops_provider.stores.predictions import SegmentWriter

MODEL = "flights"
COLUMNS = (Column("distance", "number"), Column("seats", "whole"), Column("carrier", "text"), Column("wet", "flag"))
ROW: dict[str, Any] = {"distance": 2.0, "seats": 100, "carrier": "AA", "wet": False}
SECRET = "a-token-of-some-length"

Predict = Callable[[Arrays], NDArray[np.float64]]


def tenth_of_distance(columns: Arrays) -> NDArray[np.float64]:
    if np.isnan(columns["distance"]).any():
        raise ValueError("distance is missing")
    return np.asarray(columns["distance"] / 10)


@dataclass
class Made:
    """An application in this process, and its prediction log."""

    app: ModelServerApp
    served: ServedModel
    log: SegmentWriter
    follower: Any
    calls: list[Arrays] = field(default_factory=list)

    def run(self, ask: Callable[[httpx.AsyncClient], Awaitable[Any]], **headers: str) -> Any:
        async def asked() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
                return await ask(client)

        return asyncio.run(asked())

    def post(self, content: Any, path: str = "/invocations", **headers: str) -> httpx.Response:
        async def ask(client: httpx.AsyncClient) -> httpx.Response:
            if isinstance(content, bytes):
                return await client.post(path, content=content, headers={"Content-Type": "application/json"})
            return await client.post(path, json=content)

        return self.run(ask, **headers)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.run(lambda client: client.get(path), **headers)

    def logged(self) -> list[dict[str, Any]]:
        """End the server and give what it logged."""
        self.app.pool.shutdown()
        self.served.stop()
        files = sorted(self.log.folder.glob("*.sealed"))
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Made]]:
    made: list[Made] = []

    def maker(
        split: dict[str, int] | None = None,
        *,
        predict: Predict | dict[str, Predict] = tenth_of_distance,
        shadow: tuple[str, ...] = (),
        policy: ServingPolicy | None = None,
        tokens: Tokens | None = None,
        workers: int = 2,
    ) -> Made:
        split = split or {"1": 100}
        calls: list[Arrays] = []

        def watched(version: str) -> Predict:
            inner = predict[version] if isinstance(predict, dict) else predict

            def called(columns: Arrays) -> NDArray[np.float64]:
                calls.append(columns)
                return inner(columns)

            return called

        versions = {version: LoadedVersion(version, watched(version), COLUMNS) for version in split}
        follower = SimpleNamespace(
            model=MODEL, trouble="", unreleased=False, replica="server-1", start=lambda: None, stop=lambda: None,
            snapshot=Snapshot(MODEL, 4, split, versions, shadow),
        )  # fmt: skip
        log = SegmentWriter(tmp_path / f"spool{len(made)}", "server")
        served = ServedModel(follower, log, policy)
        app = ModelServerApp([served], tokens=tokens, workers=workers, metrics=served.metrics)
        made.append(Made(app, served, log, follower, calls))
        return made[-1]

    yield maker
    for each in made:
        each.app.pool.shutdown()
        each.served._aside.shutdown()
        each.served._behind.shutdown()
        each.log._stopping.set()


def tensors(rows: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The rows as the Open Inference Protocol has them."""
    types = {"distance": "FP64", "seats": "INT64", "carrier": "BYTES", "wet": "BOOL"}
    inputs = [
        {"name": name, "datatype": kind, "shape": [len(rows)], "data": [row[name] for row in rows]}
        for name, kind in types.items()
    ]
    return {"inputs": inputs, **changes}


# The Open Inference Protocol.


def test_both_protocols_give_the_same_predictions(make: Callable[..., Made]) -> None:
    made, rows = make(), [{**ROW, "distance": number} for number in (1.0, 2.5, 7.25)]

    mlflow = made.post({"dataframe_records": rows}).json()
    inferred = made.post(tensors(rows, id="request-7"), f"/v2/models/{MODEL}/infer")

    assert mlflow == {"predictions": [0.1, 0.25, 0.725]}
    assert inferred.json() == {
        "model_name": MODEL,
        "model_version": "1",
        "id": "request-7",
        "outputs": [{"name": "prediction", "shape": [3], "datatype": "FP64", "data": [0.1, 0.25, 0.725]}],
    }
    assert inferred.headers[Header.REQUEST_ID] == "request-7"


def test_a_client_of_the_open_inference_protocol_finds_what_it_asks_for(make: Callable[..., Made]) -> None:
    made = make({"1": 100, "2": 0})

    assert made.get("/v2").json()["extensions"] == []
    assert made.get("/v2/health/live").json() == {"live": True}
    assert made.get("/v2/health/ready").json() == {"ready": True}
    assert made.get(f"/v2/models/{MODEL}/ready").json() == {"name": MODEL, "ready": True}
    about = made.get(f"/v2/models/{MODEL}").json()
    assert about["versions"] == ["1", "2"]
    assert about["inputs"] == [
        {"name": "distance", "datatype": "FP64", "shape": [-1]},
        {"name": "seats", "datatype": "INT64", "shape": [-1]},
        {"name": "carrier", "datatype": "BYTES", "shape": [-1]},
        {"name": "wet", "datatype": "BOOL", "shape": [-1]},
    ]
    assert made.get(f"/v2/models/{MODEL}/versions/2").json()["versions"] == ["2"]
    pinned = made.post(tensors([ROW]), f"/v2/models/{MODEL}/versions/2/infer")
    assert (pinned.json()["model_version"], pinned.headers[Header.ARM]) == ("2", Arm.PINNED)
    for path in ("/v2/models/other", "/v2/models/other/ready", f"/v2/models/{MODEL}/versions/9", "/v2/nothing"):
        assert made.get(path).status_code == 404
        assert made.get(path).json()["error"].endswith(".")
    assert made.post(tensors([ROW]), "/v2/models/other/infer").json()["error"].startswith("No such model here")
    both = made.post(tensors([ROW]), f"/v2/models/{MODEL}/versions/2/infer", **{Header.VERSION: "1"})
    assert both.status_code == 400


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shape": [1, 1], "data": [[4.5]]}, None),
        ({"shape": [1, 1], "data": [4.5]}, None),
        ({"datatype": "FP32"}, None),
        ({"datatype": "INT16", "data": [4]}, None),
        ({"parameters": {"content_type": "np"}}, None),
        ({"data": [None]}, "can't score these rows"),
        ({"data": ["4.5"]}, "must hold a number"),
        ({"datatype": "BYTES", "data": ["4.5"]}, "must have the datatype FP64, not BYTES"),
        ({"datatype": "FP8"}, "must have one of the datatypes"),
        ({"datatype": ["FP64"]}, "must have one of the datatypes"),
        ({"shape": [2]}, "holds 1 cells, and its shape says 2"),
        ({"shape": [1, 2], "data": [[1.0, 2.0]]}, "must have the shape"),
        ({"shape": "1"}, "must have the shape"),
        ({"shape": [-1]}, "must have the shape"),
        ({"shape": [True]}, "must have the shape"),
        ({"data": 4.5}, "must have its data as a list"),
        ({"name": ""}, "must have a name"),
        ({"name": "carrier"}, "has the name of an earlier one"),
        ({"name": "weight"}, "lacks 1 of 4 columns: distance."),
        ({"parameters": {"binary_data_size": 8}}, "binary data extension"),
        ({"parameters": 3}, "parameters must be an object"),
    ],
)
def test_tensors_are_checked(make: Callable[..., Made], changed: dict[str, Any], words: str | None) -> None:
    content = tensors([{**ROW, "distance": 4.5}])
    content["inputs"] = [*content["inputs"][1:], {**content["inputs"][0], **changed}]

    response = make().post(content, f"/v2/models/{MODEL}/infer")

    assert response.status_code == (400 if words else 200), response.text
    if words:
        assert words in response.json()["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"[]", b"{}", {"inputs": []}, {"inputs": [3]}, {"inputs": {"distance": [1]}}, tensors([ROW], id=7),
        tensors([ROW], id="a b"), tensors([ROW], outputs=3), tensors([ROW], outputs=[{"name": "logits"}]),
        tensors([ROW], parameters={"binary_data_output": True}), tensors([]),
        b'{"inputs": [{"name": "distance", "shape": [1], "datatype": "FP64", "data": [NaN]}]}',
    ],
)  # fmt: skip
def test_other_inference_requests_are_refused_in_words(make: Callable[..., Made], content: Any) -> None:
    response = make().post(content, f"/v2/models/{MODEL}/infer")

    assert response.status_code == 400
    assert response.json()["error"].endswith(".")


def test_binary_tensors_are_refused_in_words(make: Callable[..., Made]) -> None:
    refused = make().post(tensors([ROW]), f"/v2/models/{MODEL}/infer", **{"Inference-Header-Content-Length": "10"})

    assert refused.json() == {"error": "The binary data extension is not spoken here: send JSON."}


def test_a_model_of_segments_says_who_answered(make: Callable[..., Made]) -> None:
    made = make()
    loaded = made.follower.snapshot.versions["1"]
    segmented = dataclasses.replace(loaded, answered_by=lambda columns: columns["carrier"])
    made.follower.snapshot = dataclasses.replace(made.follower.snapshot, versions={"1": segmented})
    rows = [ROW, {**ROW, "carrier": "parent"}]

    assert made.post({"dataframe_records": rows}).json()["answered_by"] == ["AA", "parent"]
    second = made.post(tensors(rows), f"/v2/models/{MODEL}/infer").json()["outputs"][1]
    assert second == {"name": "answered_by", "shape": [2], "datatype": "BYTES", "data": ["AA", "parent"]}
    assert [each["name"] for each in made.get(f"/v2/models/{MODEL}").json()["outputs"]] == ["prediction", "answered_by"]
    assert [row["answered_by"] for row in made.logged()] == ["AA", "parent"] * 2


# Batches.


def test_requests_that_come_together_are_scored_together_and_a_bad_one_fails_alone(make: Callable[..., Made]) -> None:
    made = make(workers=1)
    bad = {"dataframe_records": [{**ROW, "distance": None}]}
    wrong = {"dataframe_records": [{**ROW, "distance": "far"}]}
    gap = {"dataframe_records": [{**ROW, "seats": None, "wet": None}]}

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        good = [{"dataframe_records": [{**ROW, "distance": float(number)}] * 2} for number in range(30)]
        return await asyncio.gather(*(client.post("/invocations", json=each) for each in [*good, bad, wrong, gap]))

    *good, refused, mistaken, gapped = made.run(ask)

    assert [each.json()["predictions"] for each in good] == [[number / 10] * 2 for number in range(30)]
    assert refused.json()["message"] == (
        "Version 1 of flights can't score these rows (ValueError). Columns with missing cells: distance."
    )
    assert mistaken.json()["message"] == "Column 'distance' must hold a number: row 0 does not."
    assert gapped.status_code == 200
    whole = [columns for columns in made.calls if columns["seats"].dtype == np.int64]
    assert {len(columns["seats"]) for columns in made.calls if columns["seats"].dtype != np.int64} == {1}
    assert all(columns["wet"].dtype == bool for columns in whole)
    rows = made.logged()
    assert len(rows) == 61
    assert Counter((row["request_id"], row["row"]) for row in rows).most_common(1)[0][1] == 1
    assert {row["arm"] for row in rows} == {"split"}
    assert rows[0]["features"] == {"distance": 0.0, "seats": 100, "carrier": "AA", "wet": False}
    assert all(row["latency_ms"] > 0 for row in rows)


def test_a_model_that_fails_is_a_failure_of_ours_for_nobody_else(make: Callable[..., Made]) -> None:
    def breaks(columns: Arrays) -> NDArray[np.float64]:
        if (columns["distance"] == 13).any():
            raise RuntimeError("secret of the model")
        return columns["distance"] / 10

    made = make(predict=breaks, workers=1)

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [{"inputs": {name: [cell] for name, cell in {**ROW, "distance": d}.items()}} for d in (1.0, 13.0, 2.0)]
        return await asyncio.gather(*(client.post("/invocations", json=each) for each in bodies))

    answers = made.run(ask)

    assert [each.status_code for each in answers] == [200, 500, 200]
    assert answers[1].json()["message"] == "The server failed on this request; its log says why."
    assert len(made.logged()) == 2


class OneIsUnspeakable(Pseudonyms):
    """What rows are about, with a fault for one of them."""

    def identity(self, keys: Sequence[str], cells: Mapping[str, Any], number: int = 0) -> str:
        if cells["carrier"] == "ZZ":
            raise RuntimeError("a fault")
        return super().identity(keys, cells, number)


@pytest.mark.parametrize("late", [False, True])
def test_what_cannot_be_logged_of_one_request_fails_nobody_else(make: Callable[..., Made], late: bool) -> None:
    gate = Gate()
    policy = ServingPolicy(keys=("carrier",), fallback=0.5, deadline_seconds=0.2 if late else 20)
    made = make(predict=gate if late else tenth_of_distance, policy=policy, workers=1)
    made.served.pseudonyms = OneIsUnspeakable()

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [{"dataframe_records": [{**ROW, "carrier": carrier}]} for carrier in ("AA", "ZZ", "UA")]
        return await asyncio.gather(*(client.post("/invocations", json=each) for each in bodies))

    answers = made.run(ask)
    gate.opened.set()

    assert [each.status_code for each in answers] == [200, 500, 200]
    assert made.app.predictions.open_bytes == made.served.open_requests == 0
    assert made.served.observed()["versions"]["1"]["errors"] == (3 if late else 0)
    assert [row["keys"] for row in made.logged()] == ['["AA"]', '["UA"]']


def test_a_fault_of_the_fallback_is_answered(make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    made = make(predict=gate, policy=ServingPolicy(fallback=0.5, deadline_seconds=0.2))

    def breaks(lines: bytes) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(made.log, "append_lines", breaks)

    assert made.post({"dataframe_records": [ROW]}).status_code == 500
    gate.opened.set()
    assert made.app.predictions.open_bytes == made.served.open_requests == 0


@pytest.mark.parametrize("given", [np.array([np.nan]), np.array([np.inf]), np.array([0.1, 0.2]), np.array([[0.1]])])
def test_what_is_no_prediction_is_not_answered(make: Callable[..., Made], given: NDArray[np.float64]) -> None:
    made = make(predict=lambda columns: given)

    assert made.post({"dataframe_records": [ROW]}).status_code == 400
    assert made.logged() == []


# Overload.


class Gate:
    """A model that answers only once it may."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, columns: Arrays) -> NDArray[np.float64]:
        self.opened.wait(20)
        return tenth_of_distance(columns)


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not true():  # noqa: ASYNC110 - it happens in threads that know of no event
        await asyncio.sleep(0.01)


def test_a_deadline_ends_the_wait_and_what_comes_late_is_not_logged(make: Callable[..., Made]) -> None:
    gate = Gate()
    made = make(predict=gate)

    late = made.post({"dataframe_records": [ROW]}, **{Header.DEADLINE: "50"})
    gate.opened.set()

    assert late.status_code == 504
    assert late.headers["Retry-After"] == "1"
    assert late.json()["error_code"] == "DEADLINE_EXCEEDED"
    assert made.logged() == []


@pytest.mark.parametrize("given", ["0", "-5", "soon", "1.5", "9" * 12])
def test_a_deadline_is_a_number_of_milliseconds(make: Callable[..., Made], given: str) -> None:
    assert make().post({"dataframe_records": [ROW]}, **{Header.DEADLINE: given}).status_code == 400


def test_no_deadline_is_longer_than_the_longest(make: Callable[..., Made]) -> None:
    gate = Gate()
    made = make(predict=gate, policy=ServingPolicy(deadline_seconds=0.05, longest_deadline_seconds=0.05))

    assert made.post({"dataframe_records": [ROW]}, **{Header.DEADLINE: "60000"}).status_code == 504
    gate.opened.set()


def test_the_declared_fallback_is_answered_marked_and_logged_once(make: Callable[..., Made]) -> None:
    gate = Gate()
    made = make(predict=gate, policy=ServingPolicy(fallback=0.22, deadline_seconds=0.2))

    answer = made.post({"dataframe_records": [ROW, ROW]}, **{Header.REQUEST_ID: "late"})
    inferred = made.post(tensors([ROW]), f"/v2/models/{MODEL}/infer")
    pinned = made.post({"dataframe_records": [ROW]}, **{Header.VERSION: "1"})
    bad = made.post({"dataframe_records": [{**ROW, "distance": "far"}]})
    gate.opened.set()

    assert answer.json() == {"predictions": [0.22, 0.22], "fallback": True}
    assert answer.headers[Header.ARM] == "fallback"
    assert inferred.json()["parameters"] == {"fallback": True}
    assert pinned.status_code == 504
    assert bad.status_code == 400
    rows = made.logged()
    assert [(row["request_id"], row["arm"], row["prediction"]) for row in rows[:2]] == [("late", "fallback", 0.22)] * 2
    assert len(rows) == 3


@pytest.mark.parametrize("fault", [ValueError, RuntimeError])
def test_a_call_that_fell_back_is_not_told_what_its_batch_refuses_later(
    make: Callable[..., Made], fault: type[Exception]
) -> None:
    scoring, writing = Gate(), threading.Event()

    def refuses(columns: Arrays) -> NDArray[np.float64]:
        scoring(columns)
        raise fault("far too late")

    made = make(predict=refuses, policy=ServingPolicy(fallback=0.22, deadline_seconds=0.2))
    made.served._aside.submit(writing.wait)  # the fallback's line stands still

    async def ask(client: httpx.AsyncClient) -> httpx.Response:
        asked = asyncio.create_task(client.post("/invocations", json={"dataframe_records": [ROW]}))
        await until(lambda: made.served._fallbacks.busy)  # the deadline has come
        (lane,) = made.served._lanes.values()
        scoring.opened.set()
        await until(lambda: not lane.busy)  # the batch has refused it
        writing.set()
        return await asked

    answer = made.run(ask)

    assert (answer.status_code, answer.json()) == (200, {"predictions": [0.22], "fallback": True})
    assert [(row["arm"], row["prediction"]) for row in made.logged()] == [("fallback", 0.22)]


def test_the_latency_of_a_shadow_leaves_out_its_waiting_in_the_queue(make: Callable[..., Made]) -> None:
    gate = Gate()
    made = make({"1": 100, "2": 0}, predict={"1": tenth_of_distance, "2": gate}, shadow=("2",))
    held = 0.5

    async def ask(client: httpx.AsyncClient) -> None:
        for _ in range(2):  # the second waits for the first, in the line of the shadow
            await client.post("/invocations", json={"dataframe_records": [ROW]})
            await until(lambda: "2" in made.served._shadows and made.served._shadows["2"].busy)
        await until(lambda: len(made.served._shadows["2"].waiting) == 1)
        await asyncio.sleep(held)
        gate.opened.set()
        await until(lambda: made.served.observed()["versions"].get("2", {}).get("requests") == 2)

    made.run(ask)

    counted = made.served.observed()["versions"]["2"]["latencies"]
    assert sum(counted.values()) == 2
    first, second = sorted(int(number) for number, count in counted.items() for _ in range(count))[::-1]
    assert first >= bucket(held * 1000) > second


@pytest.mark.parametrize("fallback", [None, 0.5])
def test_ten_times_the_load_is_answered_refused_or_given_the_fallback(
    make: Callable[..., Made], fallback: float | None
) -> None:
    def slowly(columns: Arrays) -> NDArray[np.float64]:
        time.sleep(0.01)
        return tenth_of_distance(columns)

    made = make(predict=slowly, policy=ServingPolicy(most_waiting=20, fallback=fallback), workers=1)
    longest = 0

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        async def one(number: int) -> httpx.Response:
            nonlocal longest
            await asyncio.sleep(number % 10 / 100)
            response = await client.post("/invocations", json={"dataframe_records": [ROW]})
            longest = max(longest, made.served.waiting)
            return response

        return await asyncio.gather(*(one(number) for number in range(400)))

    answers = made.run(ask)

    statuses = Counter(answer.status_code for answer in answers)
    answered = [answer.headers[Header.REQUEST_ID] for answer in answers if answer.status_code == 200]
    assert set(statuses) == {200, 429}
    assert longest <= 20
    assert all(int(each.headers["Retry-After"]) >= 1 for each in answers if each.status_code == 429)
    assert made.app.predictions.open_bytes == made.served.open_requests == 0
    rows = made.logged()
    assert sorted(row["request_id"] for row in rows) == sorted(answered)
    assert {row["arm"] for row in rows} == ({"split"} if fallback is None else {"split", "fallback"})


def test_bodies_that_never_end_and_those_that_are_too_many_are_refused(make: Callable[..., Made]) -> None:
    made = make(policy=ServingPolicy(deadline_seconds=0.05))

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        slow = await _raw(made.app, b" ", more=True)
        made.app.predictions.open_bytes = 2**30
        full = await client.post("/invocations", json={"dataframe_records": [ROW]})
        return [slow, full.status_code]

    assert made.run(ask) == [408, 429]


async def _raw(app: ModelServerApp, body: bytes, *, more: bool) -> int:
    """Speak ASGI: a client that sends a piece and then nothing."""
    sent: list[Any] = []
    pieces = [{"type": "http.request", "body": body, "more_body": more}]

    async def receive() -> Any:
        if pieces:
            return pieces.pop()
        await asyncio.sleep(20)
        return None

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": [(b"content-length", b"9")]}
    await app(scope, receive, send)
    return int(sent[0]["status"])


# Routing.


def test_the_same_entity_meets_the_same_version(make: Callable[..., Made]) -> None:
    made = make({"1": 50, "2": 50}, policy=ServingPolicy(sticky=("carrier",)))

    def version(carrier: str | None, layout: str = "records", **headers: str) -> str:
        row = {**ROW, "carrier": carrier}
        contents = {
            "records": {"dataframe_records": [row]},
            "split": {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}},
            "inputs": {"inputs": {name: [cell] for name, cell in row.items()}},
        }
        return made.post(contents[layout], **headers).headers[Header.VERSION]

    by_carrier = {f"C{number}": version(f"C{number}") for number in range(30)}

    assert set(by_carrier.values()) == {"1", "2"}
    for layout in ("records", "split", "inputs"):
        assert {carrier: version(carrier, layout) for carrier in by_carrier} == by_carrier
    assert len({version(None) for _ in range(30)}) == 2  # nothing to stick to: by request
    assert len({version(f"C{number}", **{Header.ENTITY: "flight 7"}) for number in range(30)}) == 1


def test_a_shadow_scores_what_others_answered_and_its_failures_stay_unseen(make: Callable[..., Made]) -> None:
    gate = Gate()

    def broken(columns: Arrays) -> NDArray[np.float64]:
        raise RuntimeError("broken")

    split = {"1": 100, "2": 0, "3": 0}
    made = make(split, predict={"1": tenth_of_distance, "2": gate, "3": broken}, shadow=("2", "3"))

    answers = [made.post({"dataframe_records": [ROW]}, **{Header.REQUEST_ID: f"r{n}"}) for n in range(3)]
    gate.opened.set()
    pinned = made.post({"dataframe_records": [ROW]}, **{Header.VERSION: "2", Header.REQUEST_ID: "pinned"})
    deadline = time.monotonic() + 10
    while 'version="3"' not in made.get("/metrics").text and time.monotonic() < deadline:
        time.sleep(0.02)

    assert {answer.headers[Header.VERSION] for answer in answers} == {"1"}
    assert pinned.headers[Header.VERSION] == "2"
    rows = made.logged()
    arms = Counter((row["version"], row["arm"]) for row in rows)
    assert arms[("1", "split")] == 3
    assert arms[("2", "shadow")] >= 1
    assert ("3", "shadow") not in arms
    assert {row["request_id"] for row in rows if row["arm"] == "shadow"} <= {"r0", "r1", "r2"}


def test_a_shadow_whose_rows_cannot_be_written_has_failed(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make({"1": 100, "2": 0}, shadow=("2",))
    append = made.log.append_lines

    def breaks(lines: bytes) -> None:
        if b'"shadow"' in lines:
            raise RuntimeError("a fault")
        append(lines)

    monkeypatch.setattr(made.log, "append_lines", breaks)

    async def ask(client: httpx.AsyncClient) -> dict[str, Any]:
        await client.post("/invocations", json={"dataframe_records": [ROW]})
        for _ in range(1000):
            if "2" in made.served.observed()["versions"]:
                break
            await asyncio.sleep(0.01)
        return made.served.observed()["versions"]

    assert {version: seen["errors"] for version, seen in made.run(ask).items()} == {"1": 0, "2": 1}


def test_large_requests_do_not_pile_up_before_a_slow_shadow(make: Callable[..., Made]) -> None:
    gate = Gate()
    made = make({"1": 100, "2": 0}, predict={"1": tenth_of_distance, "2": gate}, shadow=("2",))
    large = {"dataframe_records": [{**ROW, "note": "." * 9_000_000}]}

    async def ask(client: httpx.AsyncClient) -> list[int]:
        held = []
        for _ in range(4):  # the first is being scored, the second waits
            assert (await client.post("/invocations", json=large)).status_code == 200
            held.append(made.served._shadows["2"].waiting_bytes // 9_000_000)
        gate.opened.set()
        return held

    assert made.run(ask)[1:] == [1, 1, 1]
    dropped = f'mlops_shadow_requests_total{{model="{MODEL}",outcome="dropped",version="2"}} 2.0'
    assert dropped in made.served.metrics.text().decode()


def test_only_what_another_version_would_have_taken_is_an_error_of_a_version(make: Callable[..., Made]) -> None:
    made = make(policy=ServingPolicy(keys=("carrier",)))
    versions = made.follower.snapshot.versions

    def tally() -> tuple[int, int]:
        seen = made.served.observed()["versions"].get("1", {"requests": 0, "errors": 0})
        return seen["requests"], seen["errors"]

    for body in (b"{", {"dataframe_records": [{}]}, {"dataframe_records": [{**ROW, "distance": "far"}]}):
        assert made.post(body).status_code == 400
    assert tally() == (0, 0)
    assert made.post({"dataframe_records": [{**ROW, "distance": None}]}).status_code == 400
    assert tally() == (1, 1)
    versions["2"] = LoadedVersion("2", tenth_of_distance, COLUMNS[:1])
    assert made.post({"dataframe_records": [{"distance": 2.0}]}).status_code == 400
    assert tally() == (2, 2)
    assert made.post({"dataframe_records": [{}]}).status_code == 400
    assert tally() == (2, 2)
    left = {"0": versions.pop("2")}
    made.follower.snapshot = dataclasses.replace(made.follower.snapshot, before=left)
    assert made.post({"dataframe_records": [{"distance": 2.0}]}).status_code == 400
    assert tally() == (3, 3)
    assert made.post({"dataframe_records": [{"distance": 2.0}]}, **{Header.VERSION: "0"}).status_code == 404


@pytest.mark.parametrize("fault", [ValueError, RuntimeError])
def test_rows_that_the_version_before_can_not_score_either_are_nobodys_error(
    make: Callable[..., Made], fault: type[Exception]
) -> None:
    def short_ones_only(columns: Arrays) -> NDArray[np.float64]:
        if (columns["distance"] > 1000).any():
            raise fault("too far")
        return tenth_of_distance(columns)

    def refuses_rain_too(columns: Arrays) -> NDArray[np.float64]:
        if columns["wet"].any():
            raise fault("too wet")
        return short_ones_only(columns)

    made = make(predict=refuses_rain_too)
    before = {"0": LoadedVersion("0", short_ones_only, COLUMNS)}
    made.follower.snapshot = dataclasses.replace(made.follower.snapshot, before=before)

    def told(**cells: Any) -> tuple[int, int, int]:
        status = made.post({"dataframe_records": [{**ROW, "distance": 1.0, "wet": False, **cells}]}).status_code
        seen = made.served.observed()["versions"].get("1", {"requests": 0, "errors": 0})
        return status, seen["requests"], seen["errors"]

    refused = 400 if fault is ValueError else 500
    assert told(distance=5000.0) == (refused, 0, 0)
    assert told() == (200, 1, 0)
    assert told(wet=True) == (refused, 2, 1)
    assert told(wet=True, distance=5000.0) == (refused, 2, 1)


# Tokens.


def test_without_a_token_only_health_answers(make: Callable[..., Made]) -> None:
    made = make(tokens=Tokens(f"web {SECRET}, old another-long-token 2020-01-01"))

    for path in ("/traffic", "/metrics", "/openapi.json", "/version", "/v2", f"/v2/models/{MODEL}", "/nowhere"):
        refused = made.get(path)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert [made.get(path).status_code for path in sorted(OPEN_PATHS)] == [200] * len(OPEN_PATHS)
    assert made.post({"dataframe_records": [ROW]}).status_code == 401
    for given, words in (
        ("Bearer wrong-wrong-wrong-wrong", "This token is not known here."),
        ("Bearer another-long-token", "This token has expired: ask for a new one."),
        ("Basic YTpi", "This server asks for a token: send the header 'Authorization: Bearer <token>'."),
        ("Bearer ", "This server asks for a token: send the header 'Authorization: Bearer <token>'."),
    ):
        refused = made.post(tensors([ROW]), f"/v2/models/{MODEL}/infer", Authorization=given)
        assert (refused.status_code, refused.json()) == (401, {"error": words})
    assert made.post({"dataframe_records": [ROW]}, Authorization=f"bearer {SECRET}").status_code == 200


def test_a_token_file_counts_as_soon_as_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "LOOK_SECONDS", 0)
    file = tmp_path / "tokens"
    file.write_text(f"# name token expiry\nweb {SECRET}\n")
    tokens = Tokens(file=file)
    assert tokens.refusal(f"Bearer {SECRET}".encode()) == ""

    file.write_text("web sha256:c0067d4af4e87f00dbac63b6156828237059172d1bbeac67427345d6a9fda484 2999-01-01\n")
    assert tokens.refusal(f"Bearer {SECRET}".encode()) != ""
    file.write_text("web short\n")

    assert tokens.refusal(f"Bearer {SECRET}".encode()) != ""  # a broken file changes nothing


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("web", "each token is 'name token"),
        ("web short", "fewer than 16 characters"),
        (f"web {SECRET} someday", "the expiry of 'web' is no time"),
        (f"web {SECRET}, web {SECRET}x", "'web' comes twice"),
    ],
)
def test_tokens_of_another_form_are_refused_without_repeating_them(entries: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        Tokens(entries)

    assert SECRET not in str(refused.value)


# What monitors ask.


def test_prometheus_reads_the_metrics(make: Callable[..., Made]) -> None:
    made = make({"1": 90, "2": 10})
    made.post({"dataframe_records": [ROW, ROW]}, **{Header.VERSION: "1"})
    made.post({"dataframe_records": [{}]}, **{Header.VERSION: "1"})

    text = made.get("/metrics").text

    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    asked = (("arm", "pinned"), ("code", "200"), ("model", MODEL), ("version", "1"))
    about = (("model", MODEL), ("version", "1"))
    assert samples[("mlops_requests_total", asked)] == 1
    assert samples[("mlops_requests_total", (asked[0], ("code", "400"), *asked[2:]))] == 1
    assert samples[("mlops_request_duration_seconds_count", about)] == 2
    assert samples[("mlops_predictions_total", (("arm", "pinned"), *about))] == 2
    assert samples[("mlops_prediction_log_bytes_total", (("model", MODEL),))] > 100
    assert samples[("mlops_traffic_generation", (("model", MODEL),))] == 4
    assert samples[("mlops_traffic_share", about)] == 0.9
    assert samples[("mlops_ready", (("model", MODEL),))] == 1
    assert samples[("mlops_requests_in_flight", (("model", MODEL),))] == 0

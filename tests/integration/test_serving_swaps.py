"""
Callers keep asking two replicas while versions are promoted and rolled back.

`make test-swaps` asks 100,000 times during ten promotions and two rollbacks; here it is a small piece of that.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import pytest

from mlops_provider.core.names import Header, Kind, Table
from mlops_provider.steps.deploy import deploy
from mlops_provider.steps.drill import drill
from mlops_provider.steps.rollback import rollback
from mlops_provider.stores import predictions
from support.serving import COLUMNS, MODEL, World, frame, origin
from support.stack import wait_until

pytestmark = pytest.mark.slow

WHOLE = os.environ.get("MLOPS_TEST_SWAPS") == "whole"
REQUESTS, PROMOTIONS = (100_000, 10) if WHOLE else (3_000, 3)
TAKEN_BACK = {4, 8} if WHOLE else {2}
"""Promotions that are rolled back again."""
PAUSE_SECONDS = 0.0 if WHOLE else 0.01
"""Of a caller between two requests: a small machine has to do the rollouts, too."""
SIZES = (1, 1, 1, 3)
"""Rows per request, in turn."""
ROLLOUT: dict[str, Any] = {
    "strategy": "canary",
    "steps": [10, 50, 100],
    "soak_seconds": 0.2,
    "look_seconds": 0.2,
    "guards": {"errors": {"maximum": 0.01, "minimum_requests": 20}},
    "wait_at_most_seconds": 60.0,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and its answer; moments by the wall clock, which servers and ledger of this machine share."""

    request_id: str
    body: int
    sent_at: float
    answered_at: float
    status: int
    version: str
    generation: int
    predictions: tuple[float, ...]


@dataclass
class Callers:
    """Two threads per server that ask again and again, each over one connection."""

    urls: list[str]
    bodies: list[bytes]
    asked: list[Asked] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.threads = [
            threading.Thread(target=self.ask, args=(f"{number}-{second}", url))
            for number, url in enumerate(self.urls)
            for second in (0, 1)
        ]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def ask(self, name: str, url: str) -> None:
        server = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        for count in itertools.count():
            if self.over.is_set():
                server.close()
                return
            try:
                self.asked.append(self.answer(server, f"caller-{name}-{count}", count % len(self.bodies)))
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(f"{name}-{count}: {error!r}")
                server.close()
            time.sleep(PAUSE_SECONDS)

    def answer(self, server: http.client.HTTPConnection, request_id: str, body: int) -> Asked:
        headers = {"Content-Type": "application/json", Header.REQUEST_ID: request_id}
        sent_at = time.time()
        server.request("POST", "/invocations", self.bodies[body], headers)
        answer = server.getresponse()
        found, answered_at = json.loads(answer.read()), time.time()
        return Asked(
            str(answer.headers[Header.REQUEST_ID]),
            body,
            sent_at,
            answered_at,
            answer.status,
            str(answer.headers.get(Header.VERSION)),
            int(answer.headers.get(Header.GENERATION, 0)),
            tuple(found.get("predictions", ())),
        )


@pytest.fixture
def world(tmp_path: Path, empty_mlflow: Path) -> Iterator[World]:
    made = World(tmp_path, empty_mlflow)
    made.land_features()
    made.register(1)
    for seed in range(2, PROMOTIONS + 2):
        made.register(seed, recorded=False)
    yield made
    made.close()


def test_no_request_fails_or_is_mixed_up_while_versions_come_and_go_and_each_is_logged_once(world: World) -> None:
    servers, spec = [world.serve("a"), world.serve("b")], world.spec(rollout=ROLLOUT)
    target = world.target()
    deploy(spec, world.stores, "1", target=target, origin=origin(run="first"))
    requests = [frame(SIZES[number % len(SIZES)], seed=100 + number) for number in range(40)]
    expected = {version: [world.expected(version, rows) for rows in requests] for version in world.pipelines}
    for one, other in itertools.combinations(expected.values(), 2):
        # Whichever version answered, its numbers give it away.
        assert all(np.abs(np.subtract(*each)).min() > 1e-9 for each in zip(one, other, strict=True))
    bodies = [
        json.dumps({"dataframe_records": rows[list(COLUMNS)].to_dict(orient="records")}).encode() for rows in requests
    ]
    champion, good, rollbacks, began = "1", ["1"], [], time.monotonic()
    # One after the other, spread over all requests.
    due = itertools.count(1)
    share = REQUESTS / (PROMOTIONS + len(TAKEN_BACK) + 1)

    with Callers([server.url for server in servers], bodies) as callers:

        def asked_enough() -> None:
            least = share * next(due)
            wait_until(lambda: len(callers.asked) >= least or callers.broken, f"{least:,.0f} requests", 600)

        for promotion in range(1, PROMOTIONS + 1):
            asked_enough()
            version = str(promotion + 1)
            world.record(version, champion=champion)
            settled = deploy(spec, world.stores, version, target=target, origin=origin(run=version))
            assert settled.split == {version: 100}
            tell(callers, f"promotion {promotion}: version {version} for version {champion}")
            if promotion in TAKEN_BACK:
                asked_enough()
                by = origin("rollback_model", f"back-{version}")
                back = rollback(MODEL, world.stores, reason="swaps", target=target, origin=by)
                assert back.split == {champion: 100}
                seen = world.ledger.latest(Kind.SERVING_CHECK, MODEL).payload
                assert len(seen["replicas"]) == 2
                rollbacks.append(seen["seconds"])
                tell(callers, f"rollback: version {champion} for version {version} in {rollbacks[-1]} s")
            else:
                champion = version
                # What a rollback would do is tried, too; nothing of it stays.
                by = origin("drill_rollback", version)
                assert drill(spec, world.stores, target=target, origin=by).payload["passed"]
                good.append(version)
        wait_until(lambda: len(callers.asked) >= REQUESTS or callers.broken, f"{REQUESTS:,} requests", 600)
    took = time.monotonic() - began

    asked = callers.asked
    assert callers.broken == []
    assert len(asked) >= REQUESTS
    assert Counter(each.status for each in asked) == {200: len(asked)}
    assert {each.version for each in asked} == set(world.pipelines)
    assert [each for each in asked if mixed(each, expected[each.version][each.body])][:3] == []
    assert out_of_turn(world, asked)[:3] == []
    # Once more, and again: never to a version that was rolled back before.
    for back in good[-2::-1][:2]:
        by = origin("rollback_model", f"again-{back}")
        assert rollback(MODEL, world.stores, reason="again", target=target, origin=by).split == {back: 100}
        assert {server.score().headers[Header.VERSION] for server in servers for _ in range(5)} == {back}
    for server in servers:
        assert server.end() == 0
    assert logged(world) == {
        (each.request_id, row): (each.version, each.generation, "split", prediction)
        for each in asked
        for row, prediction in enumerate(each.predictions)
    }
    longest = sorted(each.answered_at - each.sent_at for each in asked)
    print(
        f"{len(asked):,} requests in {took:.0f} s ({len(asked) / took:,.0f} per second) on 2 replicas, during "
        f"{PROMOTIONS} promotions and {len(TAKEN_BACK)} rollbacks ({', '.join(f'{each} s' for each in rollbacks)}): "
        f"0 failed, 0 mixed, each logged once. Slowest: {longest[-1] * 1000:.0f} ms, 99th percentile: "
        f"{longest[int(len(longest) * 0.99)] * 1000:.1f} ms."
    )


def tell(callers: Callers, what: str) -> None:
    print(f"{len(callers.asked):>9,} requests answered, {len(callers.broken)} broken; {what}", flush=True)


def mixed(each: Asked, expected: list[float]) -> bool:
    """Whether it holds something else than its version predicts."""
    pairs = zip(each.predictions, expected, strict=True)
    return any(abs(answered - predicted) > 1e-12 for answered, predicted in pairs)


def out_of_turn(world: World, asked: list[Asked]) -> list[Asked]:
    """Answers of a version that had no traffic then: in a generation to come, or one that was over on every replica."""

    def at(moment: str) -> float:
        return datetime.fromisoformat(moment).timestamp()

    written = world.ledger.history(Kind.TRAFFIC, MODEL)
    begins = {record.payload["generation"]: at(record.recorded_at) for record in written}
    splits = {record.payload["generation"]: record.payload["split"] for record in written}
    seen: dict[int, float] = {}
    for check in world.ledger.history(Kind.SERVING_CHECK, MODEL):
        assert check.payload["passed"]
        seen.setdefault(check.payload["generation"], at(check.recorded_at))
    assert len(seen) >= 4 * PROMOTIONS

    def in_turn(each: Asked) -> bool:
        over = any(moment < each.sent_at for generation, moment in seen.items() if generation > each.generation)
        has_traffic = splits[each.generation].get(each.version, 0) > 0
        return has_traffic and begins[each.generation] <= each.answered_at and not over

    return [each for each in asked if not in_turn(each)]


def logged(world: World) -> dict[tuple[str, int], tuple[str, int, str, float]]:
    """What the log holds of the callers' requests; each row once."""
    uri = world.tables.uri(MODEL, Table.PREDICTION_LOG)
    predictions.deliver(world.tables, uri, world.spool / MODEL)
    columns = ["request_id", "row", "version", "generation", "arm", "prediction"]
    log = world.tables.read(uri, columns=columns)
    rows = [row for row in log[columns].itertuples(index=False, name=None) if row[0].startswith("caller-")]
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert len(found) == len(rows)
    return found

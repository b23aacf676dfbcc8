"""Every strategy meets a bad version, on two real servers with callers: it is taken back by itself, and fast."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_provider.core.guards import Decision
from mlops_provider.core.names import Header, Kind
from mlops_provider.exceptions import GuardBreachedError, RolloutRefusedError
from mlops_provider.steps.deploy import deploy
from mlops_provider.steps.rollback import rollback
from mlops_provider.steps.watch import watch
from support import serving
from support.serving import COLUMNS, MODEL, World, frame, origin
from support.stack import ROOT, wait_until

pytestmark = pytest.mark.slow

STRATEGIES = {"canary": "2", "shadow": "3", "blue_green": "4", "all_at_once": "5"}
FLIPPED, GOOD, BETTER = "6", "7", "8"
GUARDS: dict[str, Any] = {
    "errors": {"maximum": 0.05, "minimum_requests": 20},
    "predictions": {"maximum": 1.0, "minimum_rows": 50},
}


def fitted(seed: int) -> Any:
    """1, 7 and 8 are good, 6 says the opposite, and those between refuse a carrier that they have never seen."""
    rows = frame(300)
    late = (rows["distance"] > 1000).astype(int)
    unknown = "error" if str(seed) in STRATEGIES.values() else "ignore"
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown=unknown), ["carrier"]), remainder="passthrough", verbose_feature_names_out=False
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=2000))
    return model.fit(rows[list(COLUMNS)], 1 - late if str(seed) == FLIPPED else late)


@dataclass
class Callers:
    """They ask each server in turn; one in three asks about a carrier that is new."""

    urls: list[str]
    answers: list[httpx.Response] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.threads = [threading.Thread(target=self.ask, args=(url,)) for url in self.urls for _ in range(2)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    def ask(self, url: str) -> None:
        known = frame(3, seed=5)[list(COLUMNS)]
        bodies = [
            {"dataframe_records": known.assign(carrier=carrier).to_dict(orient="records")}
            for carrier in ("AA", "UA", "new")
        ]
        with httpx.Client(timeout=10) as client:
            for count in range(1_000_000):
                if self.done.is_set():
                    return
                self.answers.append(client.post(f"{url}/invocations", json=bodies[count % 3]))
                time.sleep(0.003)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[World]:
    """Eight versions, and two servers that follow one ledger, in which the first version serves."""
    world = World(tmp_path_factory.mktemp("guards"), empty_mlflow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "pipeline", fitted)
        world.land_features()
        for seed in range(1, 9):
            world.register(seed, recorded=False)
    world.record("1")
    servers = [world.serve("a"), world.serve("b")]
    deploy(world.spec(), world.stores, "1", target=world.target(servers[0]), origin=origin(run="first"))
    yield world
    world.close()


def rolled_out(
    world: World, version: str, run: str, **rollout: Any
) -> tuple[dict[str, Any], list[dict[str, int]], Callers]:
    """Deploy a bad version under callers; give the incident, the splits there were, and the callers."""
    world.record(version, champion="1")
    spec = world.spec(
        rollout={"soak_seconds": 1.0, "wait_at_most_seconds": 20.0, "look_seconds": 0.2, "guards": GUARDS, **rollout}
    )
    before = len(world.ledger.traffic_history(MODEL))
    with Callers([server.url for server in world.servers]) as callers:
        with pytest.raises(GuardBreachedError) as failure:
            deploy(spec, world.stores, version, target=world.target(), origin=origin(run=run))
        time.sleep(0.2)
    incident = world.ledger.latest(Kind.INCIDENT, MODEL).payload
    assert f"on every replica {incident['seconds']:.1f} s after the decision" in str(failure.value)
    return incident, [dict(each.split) for each in world.ledger.traffic_history(MODEL)[before:]], callers


@pytest.mark.parametrize(("strategy", "most"), [("canary", 20), ("shadow", 0), ("blue_green", 0), ("all_at_once", 100)])
def test_a_version_that_fails_its_callers_is_taken_back_by_itself(trained: World, strategy: str, most: int) -> None:
    version = STRATEGIES[strategy]

    incident, splits, callers = rolled_out(trained, version, strategy, strategy=strategy, steps=[20, 60, 100])

    assert incident["version"] == version
    assert incident["most"] == most == max(split.get(version, 0) for split in splits)
    assert splits[-1] == {"1": 100}
    assert incident["seconds"] > 0
    assert len(incident["replicas"]) == 2
    assert next(each for each in incident["readings"] if each["guard"] == "errors")["verdict"] == "breached"
    failed = [answer for answer in callers.answers if answer.status_code != 200]
    assert bool(failed) == bool(most)
    assert {server.score().headers[Header.VERSION] for server in trained.servers for _ in range(5)} == {"1"}
    with pytest.raises(RolloutRefusedError, match="does not return"):
        deploy(trained.spec(), trained.stores, version, target=trained.target(), origin=origin(run="again"))


def test_a_version_that_says_the_opposite_is_found_before_it_has_traffic(trained: World) -> None:
    guards = {"agreement": {"minimum": 0.9, "within": 0.1, "minimum_rows": 50}}

    incident, splits, callers = rolled_out(trained, FLIPPED, "flipped", strategy="canary", guards=guards)

    assert splits == [{"1": 100, FLIPPED: 0}, {"1": 100}]
    assert "agreement: 0 % of" in incident["reason"]
    assert {answer.status_code for answer in callers.answers} == {200}


ROLL_OUT = """
import sys
from types import SimpleNamespace
from mlops_provider.spec import load_spec
from mlops_provider.steps.deploy import deploy
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.registry import Registry
from mlops_provider.stores.tables import Tables
from mlops_provider.targets import Server
from support.serving import MODEL, origin
_, model_yaml, tables, registry, ledger, url, version = sys.argv
stores = SimpleNamespace(tables=Tables(tables), registry=Registry(registry), ledger=Ledger(ledger))
target = Server(url, model=MODEL, ledger=stores.ledger)
deploy(load_spec(model_yaml), stores, version, target=target, origin=origin(run="good"))
"""


def test_a_rollout_whose_worker_is_killed_goes_on_where_it_was_and_rolls_back_fast(trained: World) -> None:
    trained.record(GOOD, champion="1")
    rollout = {
        "strategy": "canary", "steps": [20, 100], "soak_seconds": 300.0, "look_seconds": 0.2, "guards": GUARDS,
        "wait_at_most_seconds": 60.0,
    }  # fmt: skip
    before, target = len(trained.ledger.traffic_history(MODEL)), trained.target()
    where = [trained.tables.root, trained.registry_uri, trained.ledger_url, target.url, GOOD]
    path = os.pathsep.join([str(ROOT / "plugins"), str(ROOT / "tests")])
    worker = subprocess.Popen(
        [sys.executable, "-c", ROLL_OUT, str(trained.spec(rollout=rollout).path), *where],
        env={**os.environ, "PYTHONPATH": path},
    )

    wait_until(lambda: trained.ledger.traffic(MODEL).split.get(GOOD) == 20, "the worker to move traffic")
    worker.kill()
    worker.wait()
    with Callers([server.url for server in trained.servers]) as callers:
        spec = trained.spec(rollout={**rollout, "soak_seconds": 0.5})
        settled = deploy(spec, trained.stores, GOOD, target=target, origin=origin(run="good"))
        back = rollback(MODEL, trained.stores, reason="drill", target=target, origin=origin(run="drill"))

    moves = [dict(each.split) for each in trained.ledger.traffic_history(MODEL)[before:]]
    assert moves == [{"1": 100, GOOD: 0}, {"1": 80, GOOD: 20}, {GOOD: 100}, {GOOD: 100}, {"1": 100}]
    assert "errors: 0 of" in settled.reason
    assert back.split == {"1": 100}
    seen = trained.ledger.latest(Kind.SERVING_CHECK, MODEL).payload
    assert (len(seen["replicas"]), seen["seconds"] > 0) == (2, True)
    assert {answer.status_code for answer in callers.answers} == {200}


def test_a_good_version_passes_every_guard_in_every_phase(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[Decision] = []

    def watched(*about: Any, **how: Any) -> Decision:
        decided.append(watch(*about, **how))
        return decided[-1]

    monkeypatch.setattr("mlops_provider.steps.release.watch", watched)
    trained.record(BETTER, champion="1")
    guards = {
        **GUARDS,
        "latency": {"p99_ms": 5000, "p99_ratio": 50, "minimum_requests": 20},
        "agreement": {"minimum": 0.99, "within": 0.01, "minimum_rows": 50},
    }
    rollout = {"strategy": "blue_green", "soak_seconds": 0.5, "wait_at_most_seconds": 30, "guards": guards}
    before = len(trained.ledger.traffic_history(MODEL))

    with Callers([server.url for server in trained.servers]) as callers:
        settled = deploy(
            trained.spec(rollout={**rollout, "look_seconds": 0.2}),
            trained.stores,
            BETTER,
            target=trained.target(),
            origin=origin(run="good"),
        )

    moves = [(dict(each.split), each.shadow) for each in trained.ledger.traffic_history(MODEL)[before:]]
    assert moves == [({"1": 100, BETTER: 0}, (BETTER,)), ({"1": 0, BETTER: 100}, ("1",)), ({BETTER: 100}, ())]
    passed = [decision for decision in decided if decision.action == "go_on"]
    assert [{each.guard: each.verdict for each in decision.readings} for decision in passed] == [
        dict.fromkeys(guards, "passed")
    ] * 2
    assert all(f"{guard}: " in settled.reason for guard in guards)
    assert {answer.status_code for answer in callers.answers} == {200}

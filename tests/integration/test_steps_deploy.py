"""Rollouts over a real ledger, registry and tables; the target lives in this process and can be told to fail."""

from __future__ import annotations

import argparse
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pandas as pd
import pytest

from mlops_provider.cli import rollback as cli
from mlops_provider.core.evidence import Record
from mlops_provider.core.names import Alias, Kind, Tag
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    ConfigurationError,
    NothingToDo,
    RolloutRefusedError,
    ServingCheckError,
    SourceError,
    StoreUnavailableError,
)
from mlops_provider.steps.approval import rolled_back
from mlops_provider.steps.deploy import check_serving, deploy
from mlops_provider.steps.rollback import rollback
from mlops_provider.stores.replicas import Replica
from mlops_provider.stores.tables import Tables
from mlops_provider.targets import Answer, Server
from support.in_process import InProcessTarget
from support.serving import DECLARED, MODEL, World, origin


@pytest.fixture
def world(four_versions: World, tmp_path: Path) -> World:
    """The trained versions, with a ledger in which only version 1 passed the gate."""
    four_versions.use_ledger(tmp_path / "ledger.db")
    four_versions.record("1")
    return four_versions


@pytest.fixture
def target(world: World) -> InProcessTarget:
    return InProcessTarget(world)


def deployed(
    world: World, version: str, target: InProcessTarget, champion: str | None = None, patience: float = 30
) -> Traffic:
    if champion:
        world.record(version, champion=champion)
    doing = origin(run=f"deploy {version}")
    return deploy(world.spec(), world.stores, version, target=target, origin=doing, patience=patience)


def splits(world: World) -> list[dict[str, int]]:
    return [dict(traffic.split) for traffic in world.ledger.traffic_history(MODEL)]


def test_the_first_version_is_checked_before_it_settles(world: World, target: InProcessTarget) -> None:
    check = check_serving(world.spec(), world.stores, "1", target=target, origin=origin("check_serving"), patience=2)
    after_check = world.ledger.traffic(MODEL)
    settled = deployed(world, "1", target)

    assert world.ledger.get(check).payload["passed"] is True
    assert world.ledger.get(check).payload["replicas"] == ["a", "b"]
    assert after_check == Traffic(MODEL, 1, {"1": 100}, False, "version 1 gets 100 %")
    assert (settled.generation, settled.split, settled.settled) == (2, {"1": 100}, True)
    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "1"
    assert world.ledger.latest(Kind.PROMOTION, MODEL).payload["version"] == "1"


def test_a_canary_goes_through_the_declared_steps(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)

    deployed(world, "2", target, champion="1")

    assert splits(world)[2:] == [{"1": 100, "2": 0}, {"1": 90, "2": 10}, {"1": 50, "2": 50}, {"2": 100}, {"2": 100}]
    assert [traffic.settled for traffic in world.ledger.traffic_history(MODEL)][2:] == [False] * 4 + [True]
    aliases = world.registry.aliases(MODEL)
    assert (aliases[Alias.CHAMPION], aliases[Alias.PREVIOUS]) == ("2", "1")
    assert world.ledger.verify() is None


def test_all_at_once_loads_first_and_then_switches(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    world.record("2", champion="1")
    spec = world.spec(rollout={**DECLARED["rollout"], "strategy": "all_at_once"})

    deploy(spec, world.stores, "2", target=target, origin=origin(), patience=2)

    assert splits(world)[2:] == [{"1": 100, "2": 0}, {"2": 100}, {"2": 100}]


def test_deploying_the_champion_is_nothing_to_do(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)

    for step in (check_serving, deploy):
        with pytest.raises(NothingToDo, match="already has all traffic"):
            step(world.spec(), world.stores, "1", target=target, origin=origin(run="again"), patience=2)
    assert len(splits(world)) == 2


def test_the_same_task_again_gets_what_its_first_try_reached(world: World, target: InProcessTarget) -> None:
    first = deployed(world, "1", target)

    assert deployed(world, "1", target) == first


def test_a_check_is_done_once_per_task(world: World, target: InProcessTarget) -> None:
    checks = [
        check_serving(world.spec(), world.stores, "1", target=target, origin=origin("check_serving"), patience=2)
        for _ in range(2)
    ]

    assert checks[0] == checks[1]
    assert len(splits(world)) == 1


def test_a_version_without_a_passing_verdict_never_moves_traffic(world: World, target: InProcessTarget) -> None:
    world.record("2", passed=False)

    with pytest.raises(RolloutRefusedError, match="no passing verdict"):
        deployed(world, "2", target)
    with pytest.raises(RolloutRefusedError, match="not registered through the gate"):
        deployed(world, "3", target)
    assert splits(world) == []


def test_a_version_gated_against_another_champion_is_refused(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    deployed(world, "2", target, champion="1")

    with pytest.raises(RolloutRefusedError, match="passed the gate against version 1, but version 2 serves now"):
        deployed(world, "3", target, champion="1")


def test_without_feature_rows_nothing_moves(world: World, target: InProcessTarget) -> None:
    stores = SimpleNamespace(tables=Tables(str(world.folder / "empty")), registry=world.registry, ledger=world.ledger)

    with pytest.raises(SourceError, match="run its ingest DAG first"):
        deploy(world.spec(), stores, "1", target=target, origin=origin(), patience=2)
    assert splits(world) == []


def test_without_a_live_replica_nothing_moves(world: World, target: InProcessTarget) -> None:
    target.replicas = ()

    with pytest.raises(StoreUnavailableError, match="Start the model server: mlops serve"):
        deployed(world, "1", target)
    with pytest.raises(StoreUnavailableError, match="mlops serve"):
        check_serving(world.spec(), world.stores, "1", target=target, origin=origin("check_serving"), patience=2)
    assert splits(world) == []


@pytest.mark.parametrize("fault", ["lying", "refusing"])
def test_a_version_that_fails_the_check_never_gets_traffic(world: World, target: InProcessTarget, fault: str) -> None:
    deployed(world, "1", target)
    world.record("2", champion="1")
    getattr(target, fault).add("2")

    with pytest.raises(ServingCheckError, match="Version 2 was taken back; generation 4 serves version 1: 100 %"):
        check_serving(world.spec(), world.stores, "2", target=target, origin=origin("check_serving"), patience=2)

    assert splits(world)[2:] == [{"1": 100, "2": 0}, {"1": 100}]
    assert world.ledger.latest(Kind.SERVING_CHECK, MODEL).payload["passed"] is False
    getattr(target, fault).clear()
    assert deployed(world, "2", target).split == {"2": 100}


def test_a_failed_first_version_does_not_stand_in_the_way_of_the_next(world: World, target: InProcessTarget) -> None:
    target.lying.add("1")
    with pytest.raises(ServingCheckError, match="50 of 50 rows differently"):
        check_serving(world.spec(), world.stores, "1", target=target, origin=origin("check_serving"), patience=2)

    world.record("2")
    assert deployed(world, "2", target).split == {"2": 100}


def test_a_version_that_fails_under_traffic_is_rolled_back_for_good(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)

    def turn_bad(traffic: Traffic) -> None:
        if traffic.split.get("2") == 50:
            target.lying.add("2")

    target.when_moved = turn_bad
    with pytest.raises(ServingCheckError, match="predicts 50 of 50 rows differently .* was taken back"):
        deployed(world, "2", target, champion="1")

    assert splits(world)[-2:] == [{"1": 50, "2": 50}, {"1": 100}]
    record = world.ledger.latest(Kind.ROLLBACK, MODEL)
    assert record.payload["refused"] == ["2"]
    assert "differently" in record.payload["reason"]
    assert Tag.ROLLED_BACK in world.registry.versions(MODEL)[1].tags
    target.lying.clear()
    with pytest.raises(RolloutRefusedError, match="was rolled back on .* and does not return"):
        deployed(world, "2", target)


def test_a_try_that_the_other_one_overtakes_at_the_end_succeeds_like_it(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = deployed(world, "1", target)
    find, asked = world.ledger.find, list[str]()

    def before_the_other_one_promoted(kind: str, key: str) -> Record | None:
        asked.append(kind)
        return None if asked.count(Kind.PROMOTION) == 1 and kind == Kind.PROMOTION else find(kind, key)

    monkeypatch.setattr(world.ledger, "find", before_the_other_one_promoted)

    assert deployed(world, "1", target) == settled
    assert Kind.PROMOTION in asked
    assert len(world.ledger.history(Kind.PROMOTION, MODEL)) == 1


def test_a_silent_server_pauses_the_rollout_without_blaming_the_version(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)

    def fall_silent(traffic: Traffic) -> None:
        target.silent = traffic.split.get("2") == 10

    target.when_moved = fall_silent
    with pytest.raises(StoreUnavailableError):
        deployed(world, "2", target, champion="1", patience=1)
    paused = splits(world)[-1]
    target.when_moved = lambda traffic: None
    target.silent = False

    assert paused == {"1": 100}
    assert deployed(world, "2", target).split == {"2": 100}


@pytest.mark.parametrize("error", [SourceError("The features are gone."), KeyError("a value")])
def test_any_other_error_restores_the_split_and_is_raised_as_it_was(
    world: World, target: InProcessTarget, error: Exception
) -> None:
    deployed(world, "1", target)

    def fall_over(traffic: Traffic) -> None:
        if traffic.split.get("2") == 10:
            raise error

    target.when_moved = fall_over
    with pytest.raises(type(error)) as raised:
        deployed(world, "2", target, champion="1")
    paused = world.ledger.traffic_history(MODEL)[-1]
    target.when_moved = lambda traffic: None

    assert raised.value is error
    assert (paused.split, paused.settled) == ({"1": 100}, True)
    assert "a value" not in paused.reason
    assert world.ledger.history(Kind.ROLLBACK, MODEL) == []
    assert deployed(world, "2", target).split == {"2": 100}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<p>Log in</p>"),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json={"predictions": [0.5]}),
        httpx.Response(404, html="<p>Not here</p>"),
        httpx.Response(500),
    ],
)
def test_an_answer_of_something_else_is_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: httpx.Response
) -> None:
    monkeypatch.setattr(httpx, "post", lambda *args, **kwargs: answer)
    server = Server("http://portal", model=MODEL, ledger=world.ledger)

    with pytest.raises(StoreUnavailableError, match="http://portal is no model server"):
        server.predict(pd.DataFrame({"distance": [1.0]}))


class Portal(BaseHTTPRequestHandler):
    """What happens to listen where the model server was: it lets everybody log in."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<p>Log in</p>")

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@dataclass
class BehindAnAddress(InProcessTarget):
    """Callers reach it at an address, at which something else may listen."""

    address: str = ""

    def predict(self, rows: pd.DataFrame, *, version: str | None = None, replica: Replica | None = None) -> Answer:
        if self.address and replica is None:
            return Server(self.address, model=MODEL, ledger=self.world.ledger).predict(rows)
        return super().predict(rows, version=version, replica=replica)


def test_a_stranger_at_the_servers_address_pauses_the_rollout_without_blaming_the_version(world: World) -> None:
    target = BehindAnAddress(world)
    deployed(world, "1", target)
    world.record("2", champion="1")
    with HTTPServer(("127.0.0.1", 0), Portal) as portal:
        threading.Thread(target=portal.serve_forever, daemon=True).start()

        def come_between(traffic: Traffic) -> None:
            if traffic.split.get("2") == 10:
                target.address = f"http://127.0.0.1:{portal.server_port}"

        target.when_moved = come_between
        with pytest.raises(StoreUnavailableError, match="is no model server"):
            deploy(world.spec(), world.stores, "2", target=target, origin=origin(), patience=0.5)
        portal.shutdown()
    paused, target.when_moved, target.address = splits(world)[-1], lambda traffic: None, ""

    assert paused == {"1": 100}
    assert world.ledger.history(Kind.ROLLBACK, MODEL) == []
    assert deployed(world, "2", target).split == {"2": 100}


@pytest.mark.parametrize("share", [0, 10, 50, 100])
def test_a_killed_rollout_goes_on_where_it_was(world: World, target: InProcessTarget, share: int) -> None:
    deployed(world, "1", target)

    def die(traffic: Traffic) -> None:
        if traffic.split.get("2") == share and not traffic.settled:
            raise KeyboardInterrupt

    target.when_moved = die
    with pytest.raises(KeyboardInterrupt):
        deployed(world, "2", target, champion="1")
    target.when_moved = lambda traffic: None
    deployed(world, "2", target)

    assert splits(world)[2:] == [{"1": 100, "2": 0}, {"1": 90, "2": 10}, {"1": 50, "2": 50}, {"2": 100}, {"2": 100}]


def test_a_rollout_killed_after_settling_is_completed(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)

    def die(traffic: Traffic) -> None:
        if traffic.settled:
            raise KeyboardInterrupt

    target.when_moved = die
    with pytest.raises(KeyboardInterrupt):
        deployed(world, "2", target, champion="1")
    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "1"
    target.when_moved = lambda traffic: None
    deployed(world, "2", target)

    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "2"
    assert len(splits(world)) == 7


def test_a_new_run_completes_a_rollout_that_settled_but_was_never_promoted(
    world: World, target: InProcessTarget
) -> None:
    deployed(world, "1", target)
    world.record("2", champion="1")

    def die(traffic: Traffic) -> None:
        if traffic.settled:
            raise KeyboardInterrupt

    target.when_moved = die
    with pytest.raises(KeyboardInterrupt):
        deployed(world, "2", target)
    target.when_moved = lambda traffic: None
    before = splits(world)
    check = origin("check_serving", run="new")
    check_serving(world.spec(), world.stores, "2", target=target, origin=check, patience=2)
    deploy(world.spec(), world.stores, "2", target=target, origin=origin(run="new"), patience=2)

    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "2"
    assert world.ledger.latest(Kind.PROMOTION, MODEL).payload["version"] == "2"
    assert splits(world) == before
    with pytest.raises(NothingToDo):
        check_serving(
            world.spec(), world.stores, "2", target=target, origin=origin("check_serving", run="third"), patience=2
        )


def test_a_registry_that_refuses_does_not_hide_why_a_version_was_taken_back(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(world, "1", target)

    def turn_bad(traffic: Traffic) -> None:
        if traffic.split.get("2") == 50:
            target.lying.add("2")

    def refuse(*args: object) -> None:
        raise ConfigurationError("The registry refuses the credentials.")

    target.when_moved = turn_bad
    monkeypatch.setattr(world.registry, "set_alias", refuse)
    with pytest.raises(ServingCheckError, match="generation .* serves version 1: 100 %"):
        deployed(world, "2", target, champion="1")

    assert splits(world)[-1] == {"1": 100}


def test_an_orphaned_first_try_and_the_second_share_one_rollout(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    world.record("2", champion="1")

    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(deployed, world, "2", target) for _ in range(2)]
        results = [each.result() for each in tries]

    assert {result.split["2"] for result in results} == {100}
    assert splits(world)[2:] == [{"1": 100, "2": 0}, {"1": 90, "2": 10}, {"1": 50, "2": 50}, {"2": 100}, {"2": 100}]
    assert len(world.ledger.history(Kind.PROMOTION, MODEL)) == 2


def test_of_two_rollouts_at_once_one_wins(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    for version in ("2", "3"):
        world.record(version, champion="1")
    together = threading.Barrier(2)

    def try_to_deploy(version: str) -> Traffic | Exception:
        together.wait()
        try:
            return deployed(world, version, target)
        except (ConcurrentWriteError, RolloutRefusedError) as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(try_to_deploy, ("2", "3")))

    won = [result for result in results if isinstance(result, Traffic)]
    assert len(won) == 1
    loser = "3" if "2" in won[0].split else "2"
    assert all(loser not in split or split[loser] == 0 for split in splits(world))
    with pytest.raises(RolloutRefusedError, match="Train again"):
        deployed(world, loser, target)
    history = world.ledger.traffic_history(MODEL)
    assert [traffic.generation for traffic in history] == list(range(1, len(history) + 1))


def test_an_abandoned_rollout_is_taken_over(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    world.settle({"1": 50, "2": 50}, settled=False)
    world.record("3", champion="1")

    with pytest.raises(ConcurrentWriteError, match="has to wait"):
        deployed(world, "3", target)
    # The less patience with replicas, the sooner another rollout counts as dead: here at once.
    deploy(world.spec(), world.stores, "3", target=target, origin=origin(), patience=-100)

    assert splits(world)[3] == {"1": 100, "3": 0}
    assert splits(world)[-1] == {"3": 100}


def test_rolling_back_twice_never_returns_to_a_bad_version(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    deployed(world, "2", target, champion="1")
    deployed(world, "3", target, champion="2")

    first = rollback(MODEL, world.stores, reason="wrong prices", target=target, origin=origin(run="r1"), patience=2)
    second = rollback(MODEL, world.stores, reason="still wrong", target=target, origin=origin(run="r2"), patience=2)

    assert (first.split, second.split) == ({"2": 100}, {"1": 100})
    assert first.settled
    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "1"
    with pytest.raises(RolloutRefusedError, match="Nothing to roll back to"):
        rollback(MODEL, world.stores, reason="and again", target=target, origin=origin(run="r3"), patience=2)
    seen = world.ledger.latest(Kind.SERVING_CHECK, MODEL).payload
    assert seen["version"] == "1"
    assert seen["seconds"] > 0


def test_a_retried_rollback_does_not_go_further_back(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    deployed(world, "2", target, champion="1")
    deployed(world, "3", target, champion="2")

    def die(traffic: Traffic) -> None:
        raise KeyboardInterrupt

    target.when_moved = die
    with pytest.raises(KeyboardInterrupt):
        rollback(MODEL, world.stores, reason="bad", target=target, origin=origin("rollback_model"), patience=2)
    target.when_moved = lambda traffic: None
    again = rollback(MODEL, world.stores, reason="bad", target=target, origin=origin("rollback_model"), patience=2)

    assert again.split == {"2": 100}
    assert splits(world)[-2:] == [{"3": 100}, {"2": 100}]


def third_of_three(world: World, target: InProcessTarget) -> None:
    for version, before in (("1", None), ("2", "1"), ("3", "2")):
        deployed(world, version, target, champion=before)


def back(
    world: World, target: InProcessTarget, run: str, *, version: str | None = None, patience: float = 2.0
) -> Traffic:
    by = origin("rollback_model", run)
    return rollback(MODEL, world.stores, reason="bad", target=target, origin=by, version=version, patience=patience)


@pytest.mark.parametrize("refused", [False, True])
def test_a_rollback_that_nobody_saw_served_is_confirmed_by_the_next_one_unless_it_is_refused(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    third_of_three(world, target)
    behind = target.observe()
    with monkeypatch.context() as patch:
        patch.setattr(target, "observe", lambda: behind)
        with pytest.raises(
            StoreUnavailableError, match=r"is recorded, but .*: mlops rollback --model \S+ --reason .* --version 2"
        ):
            back(world, target, "r1", patience=0.1)
    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "2"
    target.refusing = {"2"} if refused else set()

    again = back(world, target, "r2")

    assert again.split == ({"1": 100} if refused else {"2": 100})
    assert rolled_back(world.ledger, MODEL) == ({"2", "3"} if refused else {"3"})
    if not refused:
        assert back(world, target, "r3").split == {"1": 100}


def test_a_try_again_of_a_rollback_that_waited_for_another_one_goes_no_further(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    third_of_three(world, target)
    behind = target.observe()
    with monkeypatch.context() as patch:
        patch.setattr(target, "observe", lambda: behind)
        with pytest.raises(StoreUnavailableError):
            back(world, target, "a", patience=0.1)
        with pytest.raises(RolloutRefusedError, match="Nothing was moved: it had come back before"):  # not retried
            back(world, target, "b", patience=0.1)

    seen = back(world, target, "c")

    assert back(world, target, "c") == seen
    assert (seen.split, rolled_back(world.ledger, MODEL)) == ({"2": 100}, {"3"})


def test_a_rollback_that_was_killed_before_it_moved_leaves_nothing_more_once_another_has_moved(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    third_of_three(world, target)

    def die(*args: Any, **kwargs: Any) -> Traffic:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "propose_traffic", die)
        with pytest.raises(KeyboardInterrupt):
            back(world, target, "a")
    other = back(world, target, "b")
    retried = back(world, target, "a")

    assert retried == other
    assert (retried.split, rolled_back(world.ledger, MODEL)) == ({"2": 100}, {"3"})


def test_a_rollback_to_a_version_that_refuses_rows_stands_and_the_next_one_goes_further(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    third_of_three(world, target)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ServingCheckError("A column is missing.")

    with monkeypatch.context() as patch:
        patch.setattr(target, "predict", refuse)
        with pytest.raises(ServingCheckError, match=r"stands: .* \(version 2: 100 %\).*A column is missing.*further"):
            back(world, target, "r1")

    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "2"
    assert back(world, target, "r2").split == {"1": 100}


def test_two_who_name_the_bad_version_go_back_once(world: World, target: InProcessTarget) -> None:
    third_of_three(world, target)
    with pytest.raises(NothingToDo, match=r"Version 9 .* is not in generation \d+ \(version 3: 100 %\)"):
        back(world, target, "r0", version="9")

    first, second = back(world, target, "r1", version="3"), back(world, target, "r2", version="3")

    assert first == second
    assert first.split == {"2": 100}
    assert rolled_back(world.ledger, MODEL) == {"3"}


def test_a_champion_that_is_named_goes_and_what_was_to_follow_it_may_come_again(
    world: World, target: InProcessTarget
) -> None:
    deployed(world, "1", target)
    deployed(world, "2", target, champion="1")
    world.record("3", champion="2")

    def at_ten(traffic: Traffic) -> None:
        if traffic.split.get("3") == 10:
            target.when_moved = lambda traffic: None
            back(world, target, "r", version="2")

    target.when_moved = at_ten
    with pytest.raises(RolloutRefusedError, match="rollout of version 3 .* was aborted by ada"):
        deploy(world.spec(), world.stores, "3", target=target, origin=origin(run="three"))

    assert splits(world)[-1] == {"1": 100}
    assert rolled_back(world.ledger, MODEL) == {"2"}


def test_a_rollback_holds_nothing_against_a_version_without_a_share_and_says_what_was_left(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed(world, "1", target)
    world.record("2", champion="1")
    check_serving(world.spec(), world.stores, "2", target=target, origin=origin(run="two"))
    loaded = splits(world)[-1]
    monkeypatch.setattr(cli, "use_home", lambda: None)
    monkeypatch.setattr(cli, "spec_of", lambda model: world.spec())
    monkeypatch.setattr(cli, "target_of", lambda spec, stores: target)
    monkeypatch.setattr("mlops_provider.stores.suite.Stores.from_environment", lambda: world.stores)

    def said(version: str | None = None) -> str:
        cli.main(argparse.Namespace(model="", reason="complaints", version=version))
        return capsys.readouterr().out

    unjudged = said()

    assert (loaded, splits(world)[-1]) == ({"1": 100, "2": 0}, {"1": 100})
    assert "Version 2 had no share: its rollout ended, and it may be deployed again; to leave version 1" in unjudged
    assert rolled_back(world.ledger, MODEL) == set()
    with pytest.raises(RolloutRefusedError, match="was aborted"):
        deploy(world.spec(), world.stores, "2", target=target, origin=origin(run="two"))
    settled = deploy(world.spec(), world.stores, "2", target=target, origin=origin(run="again"))
    assert settled.split == {"2": 100}
    assert "Version 2 does not return." in said()
    assert f"so nothing was moved now; to leave version 1 as well: mlops rollback --model {MODEL} --version 1" in said(
        "2"
    )


def test_two_rollbacks_at_once_are_one(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    deployed(world, "2", target, champion="1")
    deployed(world, "3", target, champion="2")
    together = threading.Barrier(2)

    def go_back(run: str) -> Traffic:
        together.wait()
        return rollback(MODEL, world.stores, reason="bad", target=target, origin=origin(run=run), patience=2)

    real = world.ledger.traffic_history

    def both_read_before_either_writes(model: str) -> list[Traffic]:
        history = real(model)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.3)
        return history

    world.ledger.traffic_history = both_read_before_either_writes  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(go_back, ("r1", "r2")))

    assert [result.split for result in results] == [{"2": 100}, {"2": 100}]


def test_a_rollback_ends_a_rollout_under_way(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)

    def interfere(traffic: Traffic) -> None:
        if traffic.split.get("2") == 50:
            rollback(MODEL, world.stores, reason="complaints", target=target, origin=origin(run="r"), patience=2)

    target.when_moved = interfere
    with pytest.raises(RolloutRefusedError, match="complaints"):
        deployed(world, "2", target, champion="1")

    assert splits(world)[-1] == {"1": 100}


def test_a_rollback_while_a_deployment_finishes_stays_in_the_registry(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(world, "1", target)
    set_alias = world.registry.set_alias

    def overtaken(model: str, alias: str, version: str) -> None:
        if (alias, version) == (Alias.CHAMPION, "2"):
            rollback(MODEL, world.stores, reason="complaints", target=target, origin=origin(run="r"), patience=2)
        set_alias(model, alias, version)

    monkeypatch.setattr(world.registry, "set_alias", overtaken)
    with pytest.raises(RolloutRefusedError, match="complaints"):
        deployed(world, "2", target, champion="1")

    assert splits(world)[-1] == {"1": 100}
    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "1"
    assert world.ledger.latest(Kind.PROMOTION, MODEL).payload["version"] == "1"


def test_a_rollback_works_without_replicas_tables_and_registry(world: World, target: InProcessTarget) -> None:
    deployed(world, "1", target)
    deployed(world, "2", target, champion="1")
    target.replicas = ()

    moved = rollback(MODEL, world.stores_away(), reason="bad", target=target, origin=origin(run="r"), patience=2)

    assert moved.split == {"1": 100}

"""A rollback drill leaves nothing behind but its record."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from mlflow import MlflowClient

from mlops_provider.cli import rollout as cli
from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    NothingToDo,
    NotLoadedError,
    RolloutRefusedError,
    ServingCheckError,
    StoreUnavailableError,
)
from mlops_provider.operators.deploy import CheckServingOperator, EndRolloutOperator
from mlops_provider.steps import rollouts
from mlops_provider.steps.approval import rolled_back
from mlops_provider.steps.deploy import Waiting, advance, check_serving, deploy
from mlops_provider.steps.drill import drill
from mlops_provider.steps.rollback import rollback
from mlops_provider.steps.rollouts import abort
from mlops_provider.steps.traffic import DRILL, Lever, Standing, champion
from support.in_process import InProcessTarget
from support.serving import MODEL, World, origin


@pytest.fixture
def world(four_versions: World, tmp_path: Path) -> World:
    """Version 2 serves, after version 1."""
    four_versions.use_ledger(tmp_path / "ledger.db")
    target = InProcessTarget(four_versions)
    for version, before in (("1", None), ("2", "1")):
        four_versions.record(version, champion=before)
        by = origin(run=f"deploy-{version}")
        deploy(four_versions.spec(), four_versions.stores, version, target=target, origin=by)
    return four_versions


@pytest.fixture
def target(world: World) -> InProcessTarget:
    return InProcessTarget(world)


def drilled(world: World, target: InProcessTarget, run: str = "monday", patience: float = 2.0) -> dict[str, Any]:
    by = origin("drill_rollback", run)
    return dict(drill(world.spec(), world.stores, target=target, origin=by, patience=patience).payload)


def newest(world: World, count: int) -> list[tuple[dict[str, int], bool]]:
    return [(dict(each.split), each.settled) for each in world.ledger.traffic_history(MODEL)[-count:]]


def test_the_version_before_answers_for_a_moment_and_the_champion_stays(world: World, target: InProcessTarget) -> None:
    during: list[str | None] = []
    target.when_moved = lambda traffic: during.append(champion(world.ledger, MODEL))

    found = drilled(world, target)
    again = drilled(world, target)

    assert newest(world, 3) == [({"2": 100}, True), ({"1": 100}, False), ({"2": 100}, True)]
    assert (found["from"], found["to"], found["passed"], found["reason"]) == ({"2": 100}, {"1": 100}, True, "")
    assert found["seconds"] >= 0
    assert found["restored_seconds"] >= 0
    assert found["replicas"] == ["a", "b"]
    assert again == found
    assert during == ["2", "2"]
    assert rolled_back(world.ledger, MODEL) == set()
    with pytest.raises(NothingToDo, match="already has all traffic"):
        deploy(world.spec(), world.stores, "2", target=target, origin=origin(run="again"))
    back = rollback(MODEL, world.stores, reason="in earnest", target=target, origin=origin(run="r"), patience=2)
    assert back.split == {"1": 100}


def test_the_commands_tell_how_long_it_took(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "opened", lambda model: (world.spec(), world.stores, target))

    cli.drill(argparse.Namespace(model=MODEL))
    drilled_now = capsys.readouterr().out
    cli.status(argparse.Namespace(model=MODEL))
    status = capsys.readouterr().out

    sentence = r"version 1: 100 % answered on every replica \(2\) after \d+\.\d s"
    assert re.search(rf"^late_flights: {sentence}; back after \d+\.\d s more\.$", drilled_now, re.MULTILINE)
    assert re.search(rf"^last rollback drill, \S+Z: {sentence}$", status, re.MULTILINE)


@pytest.mark.parametrize("fault", ["lying", "refusing"])
def test_a_version_before_that_cannot_take_over_is_told_and_traffic_returns(
    world: World, target: InProcessTarget, fault: str
) -> None:
    getattr(target, fault).add("1")

    with pytest.raises(ServingCheckError, match="A rollback of 'late_flights' to version 1: 100 % fails: "):
        drilled(world, target)

    found = world.ledger.latest(Kind.DRILL, MODEL).payload
    assert (found["passed"], found["seconds"]) == (False, None)
    assert found["restored_seconds"] >= 0
    assert newest(world, 1) == [({"2": 100}, True)]


def test_nothing_is_drilled_while_a_rollout_is_under_way_or_without_a_version_before(
    world: World, target: InProcessTarget
) -> None:
    slowly = world.spec(rollout={**world.spec().rollout.model_dump(mode="json"), "soak_seconds": 600})
    world.record("3", champion="2")
    advance(slowly, world.stores, "3", target=target, origin=origin(run="three"))
    before = world.ledger.traffic_history(MODEL)

    with pytest.raises(NothingToDo, match="a rollout is under way"):
        drilled(world, target)

    assert world.ledger.traffic_history(MODEL) == before
    abort(slowly, world.stores, reason="enough", target=target, origin=origin(run="abort"))
    rollback(MODEL, world.stores, reason="bad", target=target, origin=origin(run="r"), patience=2)
    with pytest.raises(NothingToDo, match="Nothing to roll back to"):
        drilled(world, target)


def test_a_rollback_in_earnest_during_a_drill_goes_to_the_version_before_and_stays_there(
    world: World, target: InProcessTarget
) -> None:
    def in_earnest(traffic: Traffic) -> None:
        if traffic.reason.startswith("drill"):
            target.when_moved = lambda traffic: None
            rollback(MODEL, world.stores, reason="complaints", target=target, origin=origin(run="r"), patience=2)

    target.when_moved = in_earnest
    with pytest.raises(ConcurrentWriteError):
        drilled(world, target)
    with pytest.raises(NothingToDo, match="moved on since"):
        drilled(world, target)

    assert newest(world, 2) == [({"1": 100}, False), ({"1": 100}, True)]
    assert rolled_back(world.ledger, MODEL) == {"2"}


def test_a_deployment_waits_for_the_drill(world: World, target: InProcessTarget) -> None:
    world.record("3", champion="2")

    def meanwhile(traffic: Traffic) -> None:
        if not traffic.settled:
            with pytest.raises(ConcurrentWriteError, match="has to wait"):
                deploy(world.spec(), world.stores, "3", target=target, origin=origin(run="three"))

    target.when_moved = meanwhile
    drilled(world, target)
    target.when_moved = lambda traffic: None

    assert deploy(world.spec(), world.stores, "3", target=target, origin=origin(run="three")).split == {"3": 100}


def stuck(world: World, target: InProcessTarget, run: str = "monday") -> None:
    """Leave a drill as a process does that is killed once it has moved the traffic."""
    settled = world.ledger.traffic_history(MODEL)[-1]
    lever = Lever(world.ledger, target, DRILL, origin("drill_rollback", run))
    lever.move(Standing(settled.generation, settled), {"1": 100}, settled=False, reason="drill")


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, StoreUnavailableError, ServingCheckError])
def test_an_interrupted_drill_and_one_whose_move_fails_bring_the_traffic_back_first(
    world: World, target: InProcessTarget, trouble: type[BaseException]
) -> None:
    def fail(traffic: Traffic) -> None:
        if not traffic.settled:
            raise trouble("no")

    target.when_moved = fail

    with pytest.raises(KeyboardInterrupt if trouble is KeyboardInterrupt else ServingCheckError):
        drilled(world, target)

    assert newest(world, 2) == [({"1": 100}, False), ({"2": 100}, True)]
    assert (world.ledger.latest(Kind.DRILL, MODEL) is None) == (trouble is KeyboardInterrupt)


def test_a_drill_that_was_killed_in_between_is_ended_by_its_retry(world: World, target: InProcessTarget) -> None:
    stuck(world, target)

    with pytest.raises(NothingToDo, match=r"interrupted; generation \d+ .* serves as before"):
        drilled(world, target)

    assert newest(world, 2) == [({"1": 100}, False), ({"2": 100}, True)]
    assert world.ledger.latest(Kind.DRILL, MODEL) is None


def test_abort_ends_a_drill_that_was_killed(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "opened", lambda model: (world.spec(), world.stores, target))
    stuck(world, target)

    cli.abort(argparse.Namespace(model=MODEL, reason="stuck"))

    assert "is back at version 2: 100 %" in capsys.readouterr().out
    assert newest(world, 1) == [({"2": 100}, True)]
    assert drilled(world, target, "tuesday")["passed"]


def test_the_teardown_ends_the_drill_of_its_own_run(world: World, target: InProcessTarget) -> None:
    teardown = EndRolloutOperator(task_id="end_rollout", model_yaml=str(world.spec().path))
    teardown.stores, teardown.target = world.stores, target
    stuck(world, target)

    with pytest.raises(NothingToDo, match="no drill of 'late_flights' under way"):
        teardown.step({}, origin("end_rollout", "tuesday"))
    before = newest(world, 1)
    said = teardown.step({}, origin("end_rollout", "monday"))

    assert (before, newest(world, 1)) == ([({"1": 100}, False)], [({"2": 100}, True)])
    assert "serves version 2: 100 %" in said
    assert world.ledger.latest(Kind.INCIDENT, MODEL) is None
    with pytest.raises(NothingToDo, match="no drill"):
        teardown.step({}, origin("end_rollout", "monday"))


def test_what_nobody_ends_is_ended_by_the_next_drill_or_deployment(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = world.spec(rollout={**world.spec().rollout.model_dump(mode="json"), "without_data": "hold"})
    world.record("3", champion="2")
    stuck(world, target)
    with pytest.raises(NothingToDo, match="another drill of 'late_flights' is under way"):
        drilled(world, target, "tuesday")
    monkeypatch.setattr("mlops_provider.steps.traffic.seconds_since", lambda record: 10_000.0)

    assert drilled(world, target, "tuesday")["passed"]

    stuck(world, target, "wednesday")
    would = [rollouts.planned(held, world.stores, "3", target=target, origin=origin(run="dry"))[0].split]
    with pytest.raises(NothingToDo, match="already has all traffic"):
        rollouts.planned(held, world.stores, "2", target=target, origin=origin(run="dry"))
    assert would == [{"2": 100, "3": 0}]
    check_serving(held, world.stores, "3", target=target, origin=origin(run="three"))
    assert newest(world, 3) == [({"1": 100}, False), ({"2": 100}, True), ({"2": 100, "3": 0}, False)]


def test_what_nobody_ends_is_ended_by_a_deployment_of_the_champion(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck(world, target)
    monkeypatch.setattr("mlops_provider.steps.traffic.seconds_since", lambda record: 10_000.0)

    with pytest.raises(NothingToDo, match="already has all traffic"):
        check_serving(world.spec(), world.stores, "2", target=target, origin=origin(run="again"), patience=2)

    assert newest(world, 2) == [({"1": 100}, False), ({"2": 100}, True)]


@pytest.mark.parametrize("reached", [False, True])
def test_a_drill_is_ended_as_soon_as_the_ledger_is_there_again(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    """Whether or not the write that seemed to fail came through."""
    propose, left = world.ledger.propose_traffic, [1, 2]

    def away(*args: Any, settled: bool, **kwargs: Any) -> Traffic:
        if settled and left:
            left.pop()
            if reached:
                propose(*args, settled=settled, **kwargs)
                left.clear()
            raise StoreUnavailableError("The ledger is away.")
        return propose(*args, settled=settled, **kwargs)

    monkeypatch.setattr(world.ledger, "propose_traffic", away)

    assert drilled(world, target)["passed"]
    assert left == []
    assert newest(world, 2) == [({"1": 100}, False), ({"2": 100}, True)]


def test_a_rollback_from_the_version_that_a_drill_shows_ends_the_drill(world: World, target: InProcessTarget) -> None:
    stuck(world, target)
    by = origin(run="r")

    back = rollback(MODEL, world.stores, reason="bad", target=target, origin=by, version="1", patience=2)

    assert newest(world, 2) == [({"1": 100}, False), ({"2": 100}, True)]
    assert back.split == {"2": 100}


def test_the_teardown_of_a_drill_waits_until_what_came_back_is_served(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended() -> str:
        by, how = origin("end_rollout", "monday"), {"target": target, "reason": "", "patience": 0.1}
        return rollouts.end(world.spec(), world.stores, "", origin=by, **how)

    stuck(world, target)
    behind = target.observe()
    with monkeypatch.context() as patch:
        patch.setattr(target, "observe", lambda: behind)
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="is recorded, but it was not seen to be served yet"):
                ended()

    with pytest.raises(NothingToDo, match=r"no drill .* is version 2: 100 %"):
        ended()


def test_a_drill_that_cannot_be_ended_names_the_command_that_ends_it(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose = world.ledger.propose_traffic

    def away(*args: Any, settled: bool, **kwargs: Any) -> Traffic:
        if settled:
            raise StoreUnavailableError("The ledger is away.")
        return propose(*args, settled=settled, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger, "propose_traffic", away)
        with pytest.raises(StoreUnavailableError, match=r"could not be ended.*away\. .* mlops rollout abort late_fl"):
            drilled(world, target, patience=0.1)
    back = abort(world.spec(), world.stores, reason="away", target=target, origin=origin(run="abort"))

    assert back.split == {"2": 100}


def test_an_aborted_drill_whose_end_was_not_seen_is_waited_for_by_the_next_abort(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def aborted(patience: float) -> Traffic:
        by = origin("abort", "by hand")
        return abort(world.spec(), world.stores, reason="stuck", target=target, origin=by, patience=patience)

    stuck(world, target)
    behind = target.observe()
    with monkeypatch.context() as patch:
        patch.setattr(target, "observe", lambda: behind)
        with pytest.raises(StoreUnavailableError, match="mlops rollout abort late_flights"):
            aborted(0.1)
    recorded = world.ledger.traffic(MODEL)

    assert aborted(2.0) == recorded
    with pytest.raises(RolloutRefusedError, match="No rollout of 'late_flights' is under way"):
        aborted(2.0)
    back = rollback(MODEL, world.stores, reason="in earnest", target=target, origin=origin(run="r"), patience=2)
    assert back.split == {"1": 100}


def test_a_drill_is_no_rollout_and_its_version_is_not_on_trial(world: World, target: InProcessTarget) -> None:
    spec, stores, how = world.spec(), world.stores, {"target": target, "origin": origin(run="by-hand")}
    stuck(world, target)
    before = newest(world, 1)

    assert rollouts.status(spec, stores, target=target).version is None
    with pytest.raises(RolloutRefusedError, match="version 1: 100 % answers for a rollback drill"):
        rollouts.promote(spec, stores, **how)
    with pytest.raises(RolloutRefusedError, match="No rollout"):
        rollouts.override(spec, stores, reason="why not", **how)
    for version in ("1", "2"):
        with pytest.raises(ConcurrentWriteError, match=r"is a rollback drill.* mlops rollout abort late_flights"):
            rollouts.override(spec, stores, version, reason="why not", **how)
        with pytest.raises(ConcurrentWriteError, match="is a rollback drill"):
            deploy(spec, stores, version, **how)
        with pytest.raises(ConcurrentWriteError, match="is a rollback drill"):
            rollouts.planned(spec, stores, version, **how)

    assert newest(world, 1) == before
    assert champion(stores.ledger, MODEL) == "2"


@contextmanager
def spoilt(world: World, version: str, how: str) -> Iterator[None]:
    """Files of a version that are gone or changed for a while."""
    where = Path(
        MlflowClient(world.registry_uri).get_model_version_download_uri(MODEL, version).removeprefix("file://")
    )
    kept = where.with_name("kept")
    shutil.copytree(where, kept)
    if how == "changed":
        (where / "notes.txt").write_text("not what was registered")
    elif how == "unreadable":
        (where / "MLmodel").unlink()
    else:
        shutil.rmtree(where)
    try:
        yield
    finally:
        shutil.rmtree(where, ignore_errors=True)
        kept.rename(where)


@pytest.mark.parametrize("how", ["gone", "changed", "unreadable"])
def test_a_version_before_whose_files_are_no_more_fails_the_drill_on_record_and_nothing_moves(
    world: World, target: InProcessTarget, how: str
) -> None:
    for version, before in (("3", "2"), ("4", "3")):
        world.record(version, champion=before, packable=True)
        deploy(world.spec(), world.stores, version, target=target, origin=origin(run=version))
    assert drilled(world, target, "monday")["passed"]
    before_it = world.ledger.traffic_history(MODEL)

    with spoilt(world, "3", how), pytest.raises(ServingCheckError, match="to version 3: 100 % fails: "):
        drilled(world, target, "tuesday")

    found = world.ledger.latest(Kind.DRILL, MODEL).payload
    assert (found["passed"], found["to"], found["generation"], found["seconds"]) == (False, {"3": 100}, None, None)
    assert found["reason"]
    assert world.ledger.traffic_history(MODEL) == before_it
    status = "\n".join(cli.described(world.spec(), rollouts.status(world.spec(), world.stores, target=target)))
    assert "version 3: 100 % could not take over: " in status


@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_candidate_whose_files_are_no_more_is_an_incident_of_each_run(
    world: World, target: InProcessTarget, how: str
) -> None:
    world.record("3", champion="2", packable=True)
    told: list[str] = []
    operator = CheckServingOperator(
        task_id="check_serving",
        model_yaml=str(world.spec().path),
        version="3",
        on_incident_callback=lambda context: told.append(context["mlops"]["summary"]),
    )
    operator.stores, operator.target = world.stores, target

    with spoilt(world, "3", how):
        for run in ("a", "b", "b"):
            ti = SimpleNamespace(dag_id="d", run_id=run, task_id="check_serving", map_index=-1)
            with pytest.raises(AirflowFailException, match="Version 3 got no traffic"):
                operator.execute({"ti": ti, "dag_run": SimpleNamespace()})

    found = [record.payload["origin"] for record in world.ledger.history(Kind.INCIDENT, MODEL)]
    assert found == ["d/a/check_serving/-1", "d/b/check_serving/-1"]
    assert len(told) == 3


@pytest.mark.parametrize("fault", ["files changed", "new replica"])
def test_a_version_with_a_share_that_can_be_loaded_no_more_goes_back_and_may_return(
    world: World, target: InProcessTarget, fault: str
) -> None:
    world.record("3", champion="2", packable=True)
    declared: dict[str, Any] = {**world.spec().rollout.model_dump(mode="json"), "steps": [10, 100]}

    def look(run: str, **changes: Any) -> Traffic | Waiting:
        spec = world.spec(rollout={**declared, **changes})
        return advance(spec, world.stores, "3", target=target, origin=origin(run=run), patience=2)

    look("first", soak_seconds=600.0)
    with ExitStack() as spoiling:
        if fault == "files changed":
            spoiling.enter_context(spoilt(world, "3", "changed"))
        else:
            target.refusing.add("3")
        before = newest(world, 1)
        with pytest.raises(NotLoadedError, match="Version 3 was taken back; generation .* serves version 2: 100 %"):
            look("first")
    target.refusing.clear()

    assert (before, newest(world, 1)) == ([({"2": 90, "3": 10}, False)], [({"2": 100}, True)])
    assert world.ledger.latest(Kind.INCIDENT, MODEL).payload["most"] == 10
    assert rolled_back(world.ledger, MODEL) == set()
    assert look("second").split == {"3": 100}


def test_a_version_that_has_settled_and_can_be_loaded_no_more_is_no_place_to_go_back_to(
    world: World, target: InProcessTarget
) -> None:
    world.record("3", champion="2", packable=True)

    def restart(traffic: Traffic) -> None:
        if traffic.settled and "3" in traffic.split:
            target.refusing.add("3")

    target.when_moved = restart
    with pytest.raises(NotLoadedError, match="Version 3 was taken back; generation .* serves version 2: 100 %"):
        advance(world.spec(), world.stores, "3", target=target, origin=origin(run="first"), patience=2)

    assert newest(world, 1) == [({"2": 100}, True)]
    assert rolled_back(world.ledger, MODEL) == {"3"}


def test_a_failed_drill_stays_failed_when_its_task_is_cleared(world: World, target: InProcessTarget) -> None:
    target.lying.add("1")
    with pytest.raises(ServingCheckError) as first:
        drilled(world, target)
    target.lying.clear()

    with pytest.raises(ServingCheckError) as again:
        drilled(world, target)

    assert str(again.value) == str(first.value)
    assert len(world.ledger.history(Kind.DRILL, MODEL)) == 1


def test_there_is_no_drill_between_settling_and_promotion(world: World, target: InProcessTarget) -> None:
    def killed(traffic: Traffic) -> None:
        if traffic.settled:
            raise KeyboardInterrupt

    world.record("3", champion="2")
    by = origin(run="three")
    target.when_moved = killed
    with pytest.raises(KeyboardInterrupt):
        deploy(world.spec(), world.stores, "3", target=target, origin=by)
    target.when_moved = lambda traffic: None
    assert newest(world, 1) == [({"3": 100}, True)]

    with pytest.raises(NothingToDo, match="version 3: 100 % of 'late_flights' has settled, but"):
        drilled(world, target)

    deploy(world.spec(), world.stores, "3", target=target, origin=by)
    assert world.ledger.latest(Kind.PROMOTION, MODEL).payload["version"] == "3"
    assert drilled(world, target)["to"] == {"2": 100}

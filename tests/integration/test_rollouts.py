"""A rollout under way: what its task does while it waits, and what people may do to it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from mlops_provider.cli import rollout as cli
from mlops_provider.cli import run
from mlops_provider.core.guards import Observed
from mlops_provider.core.names import Alias, Environment, Kind
from mlops_provider.core.origin import Origin
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import (
    ConcurrentWriteError,
    ConfigurationError,
    GuardBreachedError,
    InconclusiveRolloutError,
    NothingToDo,
    RolloutRefusedError,
    StoreUnavailableError,
)
from mlops_provider.operators.deploy import CheckServingOperator, DeployModelOperator, EndRolloutOperator
from mlops_provider.steps import incidents, rollouts
from mlops_provider.steps.deploy import Waiting, advance, deploy
from mlops_provider.steps.rollback import rollback
from mlops_provider.stores.ledger import Ledger
from support.in_process import InProcessTarget
from support.serving import MODEL, World, origin

FINE, FAILING = Observed(requests=100, errors=0, p99_ms=5.0), Observed(requests=100, errors=40, p99_ms=5.0)
SLOWLY = {
    "strategy": "canary",
    "steps": [10, 100],
    "soak_seconds": 600.0,
    "look_seconds": 20.0,
    "guards": {"errors": {"maximum": 0.01, "minimum_requests": 50}},
}


@pytest.fixture
def world(four_versions: World, tmp_path: Path) -> World:
    """Version 1 serves, and version 2 passed the gate against it."""
    four_versions.use_ledger(tmp_path / "ledger.db")
    four_versions.record("1")
    target = InProcessTarget(four_versions)
    deploy(four_versions.spec(), four_versions.stores, "1", target=target, origin=origin(run="first"))
    four_versions.record("2", champion="1")
    return four_versions


@pytest.fixture
def target(world: World) -> InProcessTarget:
    return InProcessTarget(world)


def splits(world: World) -> list[dict[str, int]]:
    return [dict(traffic.split) for traffic in world.ledger.traffic_history(MODEL)][2:]


def look(world: World, target: InProcessTarget, run: str = "deploy", **rollout: Any) -> Traffic | Waiting:
    spec = world.spec(rollout={**SLOWLY, **rollout})
    return advance(spec, world.stores, "2", target=target, origin=origin(run=run))


def context(run: str = "deploy") -> Any:
    ti = SimpleNamespace(dag_id="late_flights_deploy", run_id=run, task_id="deploy_model", map_index=-1)
    return {"ti": ti, "dag_run": SimpleNamespace(triggering_user_name="ada")}


def operator(
    world: World, target: InProcessTarget, told: list[str] | None = None, **changes: Any
) -> DeployModelOperator:
    """A fresh one, as every worker that takes the task up again makes."""
    spec = world.spec(rollout={**SLOWLY, **changes})
    made = DeployModelOperator(
        task_id="deploy_model",
        version="2",
        model_yaml=str(spec.path),
        on_incident_callback=lambda context: told.append(context["mlops"]["summary"]) if told is not None else None,
    )
    made.stores, made.target = world.stores, target
    return made


def test_the_task_checks_out_while_it_waits_and_another_worker_goes_on(world: World, target: InProcessTarget) -> None:
    target.seen = {"2": FINE}

    with pytest.raises(TaskDeferred) as first:
        operator(world, target).execute(context())
    with pytest.raises(TaskDeferred):
        operator(world, target).execute_complete(context())
    waited = splits(world)
    settled = operator(world, target, soak_seconds=0.0).execute_complete(context())

    assert first.value.method_name == "execute_complete"
    assert json.loads(json.dumps(first.value.trigger.serialize()[1], default=str))["moment"]
    assert waited == [{"1": 100, "2": 0}, {"1": 90, "2": 10}]
    assert splits(world) == [*waited, {"2": 100}, {"2": 100}]
    assert settled["settled"]


def test_a_breach_fails_the_task_tells_people_and_leaves_an_incident(world: World, target: InProcessTarget) -> None:
    told: list[str] = []
    target.seen = {"1": Observed(requests=900), "2": FAILING}

    with pytest.raises(AirflowFailException, match="errors: 40 of 100 requests failed") as failure:
        operator(world, target, told).execute(context())

    incident = world.ledger.latest(Kind.INCIDENT, MODEL).payload
    assert told == [str(failure.value)]
    assert "Version 2 was taken back; generation 5 serves version 1: 100 %" in told[0]
    assert (incident["version"], incident["champion"], incident["most"]) == ("2", "1", 10)
    assert (incident["generation"], incident["restored"], incident["replicas"]) == (4, 5, ["a", "b"])
    assert incident["readings"][0]["value"] == 0.4
    assert world.ledger.latest(Kind.ROLLBACK, MODEL).payload["refused"] == ["2"]
    with pytest.raises(RolloutRefusedError, match="does not return"):
        look(world, target, run="again")


def test_a_task_killed_between_the_decision_and_the_incident_completes_it(
    world: World, target: InProcessTarget
) -> None:
    look(world, target)
    target.seen = {"2": FAILING}

    def die(traffic: Traffic) -> None:
        raise KeyboardInterrupt

    target.when_moved = die
    with pytest.raises(KeyboardInterrupt):
        look(world, target)
    target.when_moved = lambda traffic: None
    before = world.ledger.latest(Kind.INCIDENT, MODEL)
    with pytest.raises(RolloutRefusedError, match="errors: 40 of 100"):
        look(world, target)

    incident = world.ledger.latest(Kind.INCIDENT, MODEL).payload
    assert before is None
    assert incident["readings"][0]["verdict"] == "breached"
    assert incident["seconds"] > 0
    assert splits(world)[-2:] == [{"1": 90, "2": 10}, {"1": 100}]


def test_an_incident_that_is_completed_after_another_rollout_began_names_what_came_back_then(
    world: World, target: InProcessTarget
) -> None:
    look(world, target)
    target.seen = {"2": FAILING}

    def die(traffic: Traffic) -> None:
        raise KeyboardInterrupt

    target.when_moved = die
    with pytest.raises(KeyboardInterrupt):
        look(world, target)
    target.when_moved = lambda traffic: None
    world.record("3", champion="1")
    target.seen = {"3": FINE}
    spec = world.spec(rollout={**SLOWLY, "soak_seconds": 0.0})
    deploy(spec, world.stores, "3", target=target, origin=origin(run="three"))
    with pytest.raises(RolloutRefusedError, match="errors: 40 of 100"):
        look(world, target)

    incident = world.ledger.latest(Kind.INCIDENT, MODEL).payload
    assert (incident["version"], incident["generation"], incident["restored"]) == ("2", 4, 5)
    assert world.registry.aliases(MODEL)[Alias.CHAMPION] == "3"


def test_without_a_minimum_sample_the_split_before_comes_back_and_the_version_may_return(
    world: World, target: InProcessTarget
) -> None:
    quick = {"soak_seconds": 0.0, "wait_at_most_seconds": 0.0}

    with pytest.raises(
        InconclusiveRolloutError, match="errors: 0 requests so far, 50 are needed.*brings back version 1: 100"
    ):
        look(world, target, **quick)

    assert splits(world)[-1] == {"1": 100}
    assert world.ledger.history(Kind.ROLLBACK, MODEL) == []
    target.seen = {"2": FINE}
    settled = look(world, target, run="later", **quick)
    assert isinstance(settled, Traffic)
    assert settled.split == {"2": 100}


def test_a_rollout_that_is_held_waits_for_a_person(world: World, target: InProcessTarget) -> None:
    waiting = look(world, target, soak_seconds=0.0, wait_at_most_seconds=0.0, without_data="hold")

    assert isinstance(waiting, Waiting)
    assert waiting.seconds == 20.0
    assert "held" in waiting.reasons[0]


def test_promote_skips_the_soak_but_not_the_guards(world: World, target: InProcessTarget) -> None:
    look(world, target)
    spec, by = world.spec(rollout=SLOWLY), origin("promote", "by hand")

    with pytest.raises(RolloutRefusedError, match="was not promoted: errors: 0 requests so far, 50 are needed"):
        rollouts.promote(spec, world.stores, target=target, origin=by)
    target.seen = {"2": FINE}
    moved = rollouts.promote(spec, world.stores, target=target, origin=by)
    settled = rollouts.promote(spec, world.stores, target=target, origin=by)

    assert [(dict(each.split), each.settled) for each in (moved, settled)] == [({"2": 100}, False), ({"2": 100}, True)]
    assert world.ledger.latest(Kind.PROMOTION, MODEL).actor == "ada"
    with pytest.raises(NothingToDo):
        look(world, target)
    with pytest.raises(RolloutRefusedError, match="No rollout of 'late_flights' is under way: version 2: 100 % has"):
        rollouts.promote(spec, world.stores, target=target, origin=by)


def test_promote_rolls_back_what_a_guard_caught(world: World, target: InProcessTarget) -> None:
    look(world, target)
    target.seen = {"2": FAILING}

    with pytest.raises(GuardBreachedError, match="taken back"):
        rollouts.promote(world.spec(rollout=SLOWLY), world.stores, target=target, origin=origin("promote", "by hand"))

    assert splits(world)[-1] == {"1": 100}


def test_an_override_skips_the_guards_and_is_recorded_but_never_the_gate(world: World, target: InProcessTarget) -> None:
    look(world, target)
    spec, by = world.spec(rollout=SLOWLY), origin("promote", "by hand")

    settled = rollouts.override(spec, world.stores, reason="the old one is worse", target=target, origin=by)

    record = world.ledger.latest(Kind.OVERRIDE, MODEL)
    assert (dict(settled.split), settled.settled) == ({"2": 100}, True)
    assert (record.actor, record.payload["reason"]) == ("ada", "the old one is worse")
    assert record.payload["skipped"] == ["errors"]
    assert world.ledger.latest(Kind.PROMOTION, MODEL).payload["strategy"] == rollouts.OVERRIDE
    with pytest.raises(AirflowSkipException, match="already has all traffic"):
        operator(world, target).execute_complete(context())
    with pytest.raises(RolloutRefusedError, match="not registered through the gate"):
        rollouts.override(spec, world.stores, "3", reason="hurry", target=target, origin=by)


@pytest.mark.parametrize("under_way", [False, True])
def test_an_override_whose_version_is_not_seen_to_be_loaded_leaves_nothing_behind(
    world: World, target: InProcessTarget, under_way: bool
) -> None:
    spec, by = world.spec(rollout=SLOWLY), origin("promote", "by hand")
    if under_way:
        target.when_moved = killed
        with pytest.raises(KeyboardInterrupt):
            look(world, target)
        target.when_moved = lambda traffic: None
    target.silent = True

    with pytest.raises(StoreUnavailableError) as error:
        rollouts.override(spec, world.stores, "2", reason="hurry", target=target, origin=by, patience=0.0)

    back = "It was taken back, and may be deployed again; generation 4 brings back version 1: 100 %."
    assert (back in str(error.value), splits(world)[-1]) == (
        (False, {"1": 100, "2": 0}) if under_way else (True, {"1": 100})
    )


def test_the_version_before_is_no_way_around_a_rollout_under_way(world: World, target: InProcessTarget) -> None:
    look(world, target)
    spec, by, before = world.spec(rollout=SLOWLY), origin("promote", "by hand"), splits(world)

    with pytest.raises(ConcurrentWriteError, match="version 2 is being rolled out .* mlops rollout abort late_flights"):
        rollouts.override(spec, world.stores, "1", reason="2 is bad", target=target, origin=by)

    assert splits(world) == before


def test_an_aborted_rollout_ends_its_run_and_another_run_may_come(world: World, target: InProcessTarget) -> None:
    look(world, target)
    spec = world.spec(rollout=SLOWLY)

    back = rollouts.abort(spec, world.stores, reason="a holiday", target=target, origin=origin("abort", "by hand"))

    assert back.split == {"1": 100}
    with pytest.raises(AirflowFailException, match=r"aborted by ada \(a holiday\)"):
        operator(world, target).execute_complete(context())
    assert splits(world)[-1] == {"1": 100}
    assert isinstance(look(world, target, run="another"), Waiting)
    assert splits(world)[-1] == {"1": 90, "2": 10}


def teardown(
    world: World, target: InProcessTarget, told: list[str] | None = None, version: str = "2"
) -> EndRolloutOperator:
    made = EndRolloutOperator(
        task_id="end_rollout",
        version=version,
        model_yaml=str(world.spec(rollout=SLOWLY).path),
        on_incident_callback=lambda context: told.append(context["mlops"]["summary"]) if told is not None else None,
    )
    made.stores, made.target = world.stores, target
    return made


def test_a_rollout_whose_task_has_ended_is_taken_back_and_may_come_again_in_another_run(
    world: World, target: InProcessTarget
) -> None:
    told: list[str] = []
    look(world, target)

    with pytest.raises(AirflowSkipException, match="This run has no rollout of version 2"):
        teardown(world, target).execute(context("another"))
    under_way = splits(world)[-1]
    said = teardown(world, target, told).execute(context())

    incident = world.ledger.latest(Kind.INCIDENT, MODEL).payload
    assert (under_way, splits(world)[-1]) == ({"1": 90, "2": 10}, {"1": 100})
    assert told == [said]
    assert "Version 2 was taken back; generation 5 serves version 1: 100 %, on every replica" in said
    assert (incident["reason"], incident["restored"], incident["most"]) == (said.partition(" Version 2")[0], 5, 10)
    assert world.ledger.history(Kind.ROLLBACK, MODEL) == []
    with pytest.raises(AirflowSkipException, match="This run has no rollout"):
        teardown(world, target).execute(context())
    with pytest.raises(RolloutRefusedError, match="was aborted by ada .The task that rolled it out ended"):
        look(world, target)
    assert isinstance(look(world, target, run="another"), Waiting)


@pytest.mark.parametrize("came_again", [False, True])
def test_a_teardown_killed_before_the_incident_records_and_tells_it_at_its_retry(
    world: World, target: InProcessTarget, came_again: bool
) -> None:
    told: list[str] = []
    look(world, target)

    def die(traffic: Traffic) -> None:
        raise KeyboardInterrupt

    target.when_moved = die
    with pytest.raises(KeyboardInterrupt):
        teardown(world, target, told).execute(context())
    target.when_moved = lambda traffic: None
    before = (told.copy(), world.ledger.history(Kind.INCIDENT, MODEL))
    if came_again:
        look(world, target, run="another")
    said = teardown(world, target, told).execute(context())
    with pytest.raises(AirflowSkipException):
        teardown(world, target, told).execute(context())

    [incident] = [each.payload for each in world.ledger.history(Kind.INCIDENT, MODEL)]
    assert (before, told) == (([], []), [said])
    assert (incident["generation"], incident["restored"], incident["most"]) == (4, 5, 10)
    assert (incident["seconds"] is None, incident["replicas"]) == (came_again, [] if came_again else ["a", "b"])
    does = "brings back version 1: 100 %, which was not seen" if came_again else "serves version 1: 100 %, on every"
    assert f"Version 2 was taken back; generation 5 {does}" in said
    assert splits(world)[-1] == ({"1": 90, "2": 10} if came_again else {"1": 100})


def killed(context: Any) -> None:
    raise KeyboardInterrupt


def test_a_try_killed_while_it_tells_of_an_incident_is_made_up_for_by_the_next_one_or_by_the_teardown(
    world: World, target: InProcessTarget
) -> None:
    told: list[str] = []
    target.seen = {"2": FAILING}
    dying = operator(world, target)
    dying.on_incident_callback = killed
    with pytest.raises(KeyboardInterrupt):
        dying.execute(context())

    for by in ("another", "deploy", "deploy"):
        with pytest.raises(AirflowFailException, match="does not return"):
            operator(world, target, told).execute(context(by))
        assert len(told) == (by != "another")
    with pytest.raises(AirflowSkipException):
        teardown(world, target, told).execute(context())

    [incident] = world.ledger.history(Kind.INCIDENT, MODEL)
    assert told == [incidents.sentence(world.ledger, incident)]
    assert "Version 2 was taken back; generation 5 serves version 1: 100 %, on every replica" in told[0]
    assert [record.payload["incident"] for record in world.ledger.history(Kind.TOLD, MODEL)] == [incident.record_id]


def test_a_teardown_killed_while_it_tells_does_so_at_its_retry(world: World, target: InProcessTarget) -> None:
    told: list[str] = []
    look(world, target)
    dying = teardown(world, target)
    dying.on_incident_callback = killed
    with pytest.raises(KeyboardInterrupt):
        dying.execute(context())

    for _ in range(2):
        with pytest.raises(AirflowSkipException):
            teardown(world, target, told).execute(context())

    assert len(told) == 1
    assert "Version 2 was taken back; generation 5 serves version 1: 100 %" in told[0]


def test_a_rollout_that_was_paused_to_the_last_try_is_told_by_the_teardown(
    world: World, target: InProcessTarget
) -> None:
    told: list[str] = []
    target.silent = True
    with pytest.raises(StoreUnavailableError):
        advance(world.spec(rollout=SLOWLY), world.stores, "2", target=target, origin=origin(run="deploy"), patience=0.0)
    with pytest.raises(AirflowSkipException):
        teardown(world, target, told).execute(context("another"))
    before = told.copy()

    for _ in range(2):
        try:
            teardown(world, target, told).execute(context())
        except AirflowSkipException:
            continue

    [incident] = [each.payload for each in world.ledger.history(Kind.INCIDENT, MODEL)]
    assert (before, len(told)) == ([], 1)
    assert "The model server gave no answer. Version 2 was taken back; generation 4 serves version 1: 100 %" in told[0]
    assert (incident["generation"], incident["restored"], incident["most"]) == (3, 4, 0)


@pytest.mark.parametrize("by", ["abort", "rollback", "rollback 2"])
def test_who_ends_a_rollout_that_is_paused_ends_its_run(world: World, target: InProcessTarget, by: str) -> None:
    target.silent = True
    with pytest.raises(StoreUnavailableError):
        advance(world.spec(rollout=SLOWLY), world.stores, "2", target=target, origin=origin(run="deploy"), patience=0.0)
    target.silent = False
    how: Any = {"reason": "a holiday", "target": target, "origin": origin(by.partition(" ")[0], "by hand")}

    if by == "abort":
        back = rollouts.abort(world.spec(rollout=SLOWLY), world.stores, **how)
    else:
        back = rollback(MODEL, world.stores, version=by.partition(" ")[2] or None, **how)

    assert back.split == {"1": 100}
    with pytest.raises(RolloutRefusedError, match=r"aborted by ada \(a holiday\)"):
        look(world, target)
    assert splits(world)[-1] == {"1": 100}


def test_a_teardown_tells_of_no_pause_whose_version_somebody_else_took_up(
    world: World, target: InProcessTarget
) -> None:
    told: list[str] = []
    target.silent = True
    with pytest.raises(StoreUnavailableError):
        advance(world.spec(rollout=SLOWLY), world.stores, "2", target=target, origin=origin(run="deploy"), patience=0.0)
    target.silent = False
    by = origin("promote", "by hand")
    rollouts.override(world.spec(rollout=SLOWLY), world.stores, "2", reason="hurry", target=target, origin=by)

    with pytest.raises(AirflowSkipException):
        teardown(world, target, told).execute(context())

    assert (told, world.ledger.history(Kind.INCIDENT, MODEL), splits(world)[-1]) == ([], [], {"2": 100})


def test_a_rollout_that_was_not_judged_is_told_once_by_its_task(world: World, target: InProcessTarget) -> None:
    told: list[str] = []
    with pytest.raises(AirflowFailException, match="was not judged"):
        operator(world, target, told, soak_seconds=0.0, wait_at_most_seconds=0.0).execute(context())
    with pytest.raises(AirflowSkipException):
        teardown(world, target, told).execute(context())

    assert len(told) == 1
    assert world.ledger.history(Kind.INCIDENT, MODEL) == []


def test_a_task_that_is_still_moving_when_its_rollout_was_taken_back_moves_no_more(
    world: World, target: InProcessTarget
) -> None:
    def taken_back(traffic: Traffic) -> None:
        target.when_moved = lambda traffic: None
        teardown(world, target).execute(context())

    target.when_moved = taken_back

    with pytest.raises(RolloutRefusedError, match="was aborted"):
        look(world, target)

    assert splits(world) == [{"1": 100, "2": 0}, {"1": 100}]


def test_what_settled_is_not_taken_back_by_the_teardown(world: World, target: InProcessTarget) -> None:
    target.seen = {"2": FINE}
    look(world, target, soak_seconds=0.0)

    with pytest.raises(AirflowSkipException):
        teardown(world, target).execute(context())

    assert splits(world)[-1] == {"2": 100}


def test_a_first_version_that_fails_its_check_is_told_once_and_goes_on_when_its_task_is_cleared(
    world: World, tmp_path: Path
) -> None:
    world.use_ledger(tmp_path / "new.db")
    world.record("1")
    target, told = InProcessTarget(world, lying={"1"}), list[str]()
    check = CheckServingOperator(
        task_id="check_serving",
        version="1",
        model_yaml=str(world.spec().path),
        on_incident_callback=lambda context: told.append(context["mlops"]["summary"]),
    )
    check.stores, check.target = world.stores, target

    with pytest.raises(AirflowFailException) as failure:
        check.execute(context())
    with pytest.raises(AirflowSkipException, match="No version of 'late_flights' has settled yet"):
        teardown(world, target, told, version="1").execute(context())
    target.lying.clear()
    check.execute(context())
    settled = deploy(world.spec(), world.stores, "1", target=target, origin=origin(run="deploy"))

    assert told == [str(failure.value)]
    assert len(world.ledger.history(Kind.INCIDENT, MODEL)) == 1
    assert world.ledger.history(Kind.ABORT, MODEL) == []
    assert (settled.settled, settled.split) == (True, {"1": 100})


def test_the_teardown_leaves_alone_what_another_run_goes_on_with(world: World, target: InProcessTarget) -> None:
    look(world, target, steps=[10, 50, 100])
    target.seen = {"2": FINE}
    by = origin(run="another: a/b")
    spec = world.spec(rollout={**SLOWLY, "steps": [10, 50, 100]})
    promoted = rollouts.promote(spec, world.stores, target=target, origin=by)

    with pytest.raises(AirflowSkipException, match="run 'another: a/b' of 'late_flights_deploy' moves it"):
        teardown(world, target).execute(context())
    kept = splits(world)[-1]
    teardown(world, target).execute(context("another: a/b"))

    assert kept == promoted.split == {"1": 50, "2": 50}
    assert splits(world)[-1] == {"1": 100}


@pytest.mark.parametrize("command", ["cli_rollout", "cli_deploy"])
def test_a_command_that_took_part_does_not_keep_the_teardown_from_ending_its_runs_rollout(
    world: World, target: InProcessTarget, command: str
) -> None:
    look(world, target, steps=[10, 50, 100])
    target.seen = {"2": FINE}
    spec = world.spec(rollout={**SLOWLY, "steps": [10, 50, 100]})
    by = Origin(command, "by-hand", "deploy_model", actor="ada")
    promoted = rollouts.promote(spec, world.stores, target=target, origin=by)

    teardown(world, target).execute(context())

    assert (promoted.split, splits(world)[-1]) == ({"1": 50, "2": 50}, {"1": 100})


def test_ctrl_c_leaves_a_rollout_to_the_run_in_airflow_that_it_took_part_in(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = {"steps": [10, 50, 100]}
    look(world, target, **canary)
    target.seen = {"2": FINE}

    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops_provider.cli.run.target_of", lambda spec, stores, releases: target)
    monkeypatch.setattr("mlops_provider.steps.deploy.time", SimpleNamespace(sleep=pressed))
    spec = world.spec(rollout={**SLOWLY, **canary})
    stages = run.Stages(spec, world.stores, "", run_id="by-hand")
    moved = rollouts.promote(
        spec, world.stores, target=target, origin=run.origin_of("deploy_model", stage="deploy", run_id="by-hand")
    )
    with pytest.raises(KeyboardInterrupt):
        stages.deploy("2")

    assert "run 'deploy' of 'late_flights_deploy' moves it, and goes on or ends it" in capsys.readouterr().out
    assert splits(world)[-1] == moved.split == {"1": 50, "2": 50}
    assert look(world, target, **canary, soak_seconds=0.0).split == {"2": 100}


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_goes_back_and_a_second_one_leaves_at_once(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    again: bool,
) -> None:  # fmt: skip
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def pressed(seconds: float) -> None:
        target.when_moved = interrupted if again else target.when_moved
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops_provider.cli.run.target_of", lambda spec, stores, releases: target)
    monkeypatch.setattr("mlops_provider.steps.deploy.time", SimpleNamespace(sleep=pressed))
    stages = run.Stages(world.spec(rollout=SLOWLY), world.stores, "", run_id="by-hand")

    with pytest.raises(KeyboardInterrupt):
        stages.deploy("2")

    said = capsys.readouterr().out
    assert "interrupted: ending the rollout; Ctrl-C again leaves at once" in said
    assert ("left at once; to go back: mlops rollout abort late_flights" in said) == again
    assert ("Version 2 was taken back; generation 5 serves version 1: 100 %" in said) != again
    assert bool(world.ledger.history(Kind.INCIDENT, MODEL)) != again


def test_ctrl_c_between_settling_and_the_promotion_says_what_serves_and_what_is_left(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(traffic: Traffic) -> None:
        if traffic.settled:
            raise KeyboardInterrupt

    target.seen, target.when_moved = {"2": FINE}, pressed
    monkeypatch.setattr("mlops_provider.cli.run.target_of", lambda spec, stores, releases: target)
    spec = world.spec(rollout={**SLOWLY, "soak_seconds": 0.0})

    with pytest.raises(KeyboardInterrupt):
        run.Stages(spec, world.stores, "", run_id="by-hand").deploy("2")
    promoted = len(world.ledger.history(Kind.PROMOTION, MODEL))
    run.Stages(spec, world.stores, "", run_id="again").deploy("2")

    said = capsys.readouterr().out
    assert "generation 6 is version 2: 100 %. It has settled, but its promotion is not recorded: deploy" in said
    assert splits(world)[-1] == {"2": 100}
    assert len(world.ledger.history(Kind.PROMOTION, MODEL)) == promoted + 1


def test_ctrl_c_while_the_ledger_is_away_says_that_the_rollout_may_stand(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(kind: str, model: str) -> None:
        raise StoreUnavailableError("The ledger is away.")

    def pressed(seconds: float) -> None:
        monkeypatch.setattr(world.ledger, "latest", away)
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops_provider.cli.run.LONGEST_AWAY", 0.0)
    monkeypatch.setattr("mlops_provider.cli.run.target_of", lambda spec, stores, releases: target)
    monkeypatch.setattr("mlops_provider.steps.deploy.time", SimpleNamespace(sleep=pressed))

    with pytest.raises(KeyboardInterrupt):
        run.Stages(world.spec(rollout=SLOWLY), world.stores, "", run_id="by-hand").deploy("2")

    said = capsys.readouterr().out
    assert "The ledger is away." in said
    assert "may still be under way; to go back: mlops rollout abort late_flights" in said


def test_a_dry_run_sees_what_the_run_would(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = world.spec(rollout=SLOWLY)
    look(world, target)
    world.record("3", champion="1")

    def planned(version: str) -> list[dict[str, int]]:
        steps = rollouts.planned(spec, world.stores, version, target=target, origin=origin(run="dry"))
        return [dict(step.split) for step in steps]

    before = splits(world)
    for version in ("1", "3"):
        with pytest.raises(ConcurrentWriteError, match=f"Version {version} of 'late_flights' has to wait"):
            planned(version)
    with monkeypatch.context() as later:
        later.setattr("mlops_provider.steps.traffic.seconds_since", lambda record: 10_000.0)
        taken_over = planned("3")
    assert (taken_over, splits(world)) == ([{"1": 100, "3": 0}, {"1": 90, "3": 10}, {"3": 100}], before)

    def settled(traffic: Traffic) -> None:
        if traffic.settled:
            raise KeyboardInterrupt

    target.seen, target.when_moved = {"2": FINE}, settled
    with pytest.raises(KeyboardInterrupt):
        look(world, target, soak_seconds=0.0)
    assert planned("2") == []
    assert "its promotion would be recorded" in cli.plan_text(spec, world.stores, "2", target)
    target.when_moved = lambda traffic: None
    look(world, target)
    with pytest.raises(NothingToDo, match="already has all traffic"):
        planned("2")


def away_for(ledger: Ledger, looks: int) -> Callable[..., Any]:
    """Give a ledger's `latest` that fails so many times."""
    latest, outage = ledger.latest, iter(range(looks))

    def away(kind: str, model: str) -> Any:
        if next(outage, None) is not None:
            raise StoreUnavailableError("The ledger is away.")
        return latest(kind, model)

    return away


@pytest.mark.parametrize("trouble", ["ledger away", "rejected", "ledger refuses"])
def test_an_error_in_a_deployment_by_hand_takes_its_version_back(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    trouble: str,
) -> None:  # fmt: skip
    def refuse(*about: object) -> None:
        raise ConfigurationError("The ledger refuses the password.")

    def soaked(seconds: float) -> None:
        if trouble == "rejected":
            answer = {"version": "2", "approved": False, "by": "bo", "reason": "too late", "responded_at": "2026-11-23"}
            world.ledger.append(Kind.APPROVAL, MODEL, answer)
        else:
            away = away_for(world.ledger, 3) if trouble == "ledger away" else refuse
            monkeypatch.setattr(world.ledger, "latest", away)

    monkeypatch.setattr("mlops_provider.cli.run.PAUSE", 0.0)
    monkeypatch.setattr("mlops_provider.cli.run.target_of", lambda spec, stores, releases: target)
    monkeypatch.setattr("mlops_provider.steps.deploy.time", SimpleNamespace(sleep=soaked))
    stages = run.Stages(world.spec(rollout=SLOWLY), world.stores, "", run_id="by-hand")

    with pytest.raises((StoreUnavailableError, RolloutRefusedError, ConfigurationError)) as error:
        stages.deploy("2")

    said = capsys.readouterr().out
    unended = trouble == "ledger refuses"
    assert (splits(world)[-1] == {"1": 90, "2": 10}) == unended
    assert ("may still be under way; to go back: mlops rollout abort late_flights" in said) == unended
    if not unended:
        assert splits(world)[-1] == {"1": 100}
        assert "failed: ending the rollout; Ctrl-C leaves at once" in said
        assert f"The deployment failed: {error.value}" in said
        assert "Version 2 was taken back; generation 5 serves version 1: 100 %" in said
        assert len(world.ledger.history(Kind.INCIDENT, MODEL)) == 1


def test_a_deployment_by_hand_that_is_refused_touches_nothing(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look(world, target)
    world.record("3", champion="1")
    before = splits(world)
    monkeypatch.setattr("mlops_provider.cli.run.target_of", lambda spec, stores, releases: target)
    stages = run.Stages(world.spec(rollout=SLOWLY), world.stores, "", run_id="by-hand")

    with pytest.raises(ConcurrentWriteError, match="Version 3 of 'late_flights' has to wait"):
        stages.deploy("3")
    with pytest.raises(RolloutRefusedError, match="not registered through the gate"):
        stages.deploy("4")

    assert splits(world) == before
    assert capsys.readouterr().out == ""


def test_the_commands_say_where_it_stands_and_what_they_would_do(
    world: World, target: InProcessTarget, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = world.spec(rollout=SLOWLY)
    monkeypatch.setattr(cli, "opened", lambda model, releases=False: (spec, world.stores, target))
    wanted = {"model": "late_flights", "override": False, "reason": None, "version": None, "dry_run": False}

    def said(command: Any, **changes: Any) -> str:
        command(argparse.Namespace(**{**wanted, **changes}))
        return capsys.readouterr().out

    settled = said(cli.status)
    look(world, target)
    target.seen = {"2": Observed(requests=12)}
    before = splits(world)
    under_way = said(cli.status)
    would = said(cli.promote, dry_run=True)
    would_override = said(cli.promote, dry_run=True, override=True, reason="hurry")

    assert "late_flights: version 1: 100 % (generation 2, settled)" in settled
    assert "rollout of version 2, canary, what is left:" in under_way
    assert "waiting     errors: 12 requests so far, 50 are needed." in under_way
    assert (
        "1. version 1: 90 %, version 2: 10 %: soak, guards\n  2. version 2: 100 %: soak, guards\n  3. settles" in would
    )
    assert "errors: at most 1 % of 50 requests or more fail" in would
    assert "Version 2 of late_flights would get 100 % at once" in would_override
    assert splits(world) == before
    with pytest.raises(RolloutRefusedError, match="Version 99 .* was not registered through the gate"):
        said(cli.promote, dry_run=True, override=True, reason="hurry", version="99")
    with pytest.raises(ConfigurationError, match="--override and --reason belong together"):
        said(cli.promote, override=True)
    assert "is back at version 1: 100 %" in said(cli.abort, reason="enough")


def test_what_the_target_does_not_offer_is_refused_before_it_begins_by_the_commands_too(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = world.spec(rollout={**SLOWLY, "strategy": "shadow"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(Environment.TABLES_URI, world.tables.root)
    monkeypatch.setenv(Environment.LEDGER_URL, world.ledger_url)
    monkeypatch.setenv(Environment.REGISTRY_URI, world.registry_uri)
    monkeypatch.setenv(Environment.SPOOL_URI, "s3://bucket/spool")
    monkeypatch.setenv(Environment.SERVER_URL, "sagemaker://prod?image=i&role_arn=r&archives=s3://bucket/archives")
    promote = argparse.Namespace(model=str(spec.path), override=True, reason="hurry", version="2", dry_run=False)

    for dry_run in (True, False):
        promote.dry_run = dry_run
        with pytest.raises(ConfigurationError, match="declares a rollout with a shadow"):
            cli.promote(promote)
        with pytest.raises(ConfigurationError, match="declares a rollout with a shadow"):
            run.Stages(spec, world.stores, "", run_id="by-hand").deploy("2", dry_run=dry_run)

    assert splits(world) == []

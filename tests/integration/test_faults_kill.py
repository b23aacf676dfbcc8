"""
`kill -9` of a task, then its retry.

A step is killed at every point of its work: just after each change it makes to a store. Its last try must leave what
one undisturbed try leaves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlops_provider.core.names import Kind, Table
from support import soundness, tasks
from support.children import killed_everywhere, run, start
from support.tiny import (
    ANY_MODEL_PASSES,
    FEBRUARY,
    JANUARY,
    MODEL,
    Place,
    ingest_month,
    ingest_months,
    register_candidate,
    trips,
    with_bad_rows,
    write_month,
)

MOMENTS = 5
"""Times that a step is killed at whatever it is doing."""


@pytest.mark.parametrize("first", [True, False], ids=["the first month", "a later month"])
def test_an_ingest_that_was_killed_everywhere_leaves_what_an_undisturbed_one_leaves(
    place: Place, undisturbed: Place, first: bool
) -> None:
    month = JANUARY if first else FEBRUARY
    for one in (place, undisturbed):
        if not first:
            ingest_months(one, JANUARY)
        write_month(one.source, month, with_bad_rows(trips(month)))

    landing, landed = killed_everywhere(tasks.land, place, month=month, run="r")
    checking, clean = killed_everywhere(tasks.validate, place, month=month, run="r", landed=landed.result)
    building, built = killed_everywhere(tasks.build_features, place, month=month, run="r", clean=clean.result)

    assert {"committed raw #1", "_append landing #1"} <= set(landing)
    assert {"write #1", "committed quarantine #1", "committed clean #1", "_append validation #1"} <= set(checking)
    assert {"committed features #1", "_append features #1"} <= set(building)
    assert landed.succeeded
    assert clean.succeeded
    assert built.succeeded
    ingest_month(undisturbed, month)
    assert soundness.contents(place) == soundness.contents(undisturbed)
    for table in (Table.RAW, Table.CLEAN, Table.FEATURES):
        assert soundness.replacements(place, table, month) == 1
    for kind in (Kind.LANDING, Kind.VALIDATION, Kind.FEATURES):
        assert len(soundness.records(place, kind, "r")) == 1
    soundness.assert_nothing_broken(place)


def killed_at_any_moment(step: Any, place: Place, rehearsal: dict[str, Any], **arguments: Any) -> Iterator[None]:
    """Run a step a few times and kill it each time a little later in the time it needs; then run it to its end."""
    usual = min(_seconds(step, place, **rehearsal) for _ in range(2))
    for moment in range(MOMENTS):
        child = start(step, place, **arguments)
        child.begin()
        time.sleep(usual * (moment + 0.5) / MOMENTS)
        child.kill()
        child.end()
        yield
    assert run(step, place, **arguments).succeeded
    yield


def _seconds(step: Any, place: Place, **arguments: Any) -> float:
    began = time.monotonic()
    assert run(step, place, **arguments).succeeded
    return time.monotonic() - began


def test_a_landing_that_is_killed_at_any_moment_leaves_a_whole_table(place: Place) -> None:
    ingest_months(place, JANUARY)
    write_month(place.source, FEBRUARY, trips(FEBRUARY, rows=20_000))
    before = soundness.contents(place)

    rehearsal = {"month": JANUARY, "run": "rehearsal"}
    for _ in killed_at_any_moment(tasks.land, place, rehearsal, month=FEBRUARY, run="r"):
        assert soundness.contents(place).items() >= before.items()
        assert len(place.stores().tables.read(place.table(Table.RAW))) in (600, 20_600)

    assert soundness.replacements(place, Table.RAW, FEBRUARY) == 1
    assert len(soundness.records(place, Kind.LANDING, "r")) == 1
    soundness.assert_nothing_broken(place)


@pytest.mark.usefixtures("with_mlflow")
def test_a_training_that_is_killed_at_any_moment_leaves_one_run_with_one_model(place: Place) -> None:
    ingest_months(place, JANUARY, FEBRUARY)
    about, rehearsal = ({"through": FEBRUARY, "run": name} for name in ("t", "rehearsal"))
    for one in (about, rehearsal):
        one["declaration"] = run(tasks.declare_gate, place, **one).result

    for _ in killed_at_any_moment(tasks.train_model, place, rehearsal, **about):
        assert len(soundness.mlflow_runs(place, "t")) <= 1

    soundness.assert_trained_once(place, "t")
    soundness.assert_nothing_broken(place)


@pytest.mark.usefixtures("with_mlflow")
def test_a_training_that_was_killed_everywhere_leaves_one_run_one_model_and_one_version(place: Place) -> None:
    ingest_months(place, JANUARY, FEBRUARY)
    through, run_name = FEBRUARY, "t"

    declaring, declared = killed_everywhere(tasks.declare_gate, place, through=through, run=run_name)
    about = {"declaration": declared.result}
    training, trained = killed_everywhere(tasks.train_model, place, through=through, run=run_name, **about)
    about["run_id"] = trained.result
    judging, judged = killed_everywhere(tasks.evaluate_model, place, through=through, run=run_name, **about)
    _, decided = killed_everywhere(
        tasks.decide_gate, place, run=run_name, evaluation=judged.result, declaration=declared.result
    )
    registering, registered = killed_everywhere(
        tasks.register_model, place, run=run_name, run_id=trained.result, verdict=decided.result
    )

    assert {"committed outcomes #1", "_append declaration #1"} <= set(declaring)
    assert {"create_run #1", "create_logged_model #1", "finalize_logged_model #1", "_append training #1"} <= set(
        training
    )
    assert {"write #1", "_append evaluation #1"} <= set(judging)
    assert {"create_model_version #1", "_append registration #1"} <= set(registering)
    assert registered.succeeded
    run_id = soundness.assert_trained_once(place, run_name)
    assert soundness.assert_registered_once(place, run_id) == registered.result == "1"
    assert place.stores().registry.aliases(MODEL) == {"challenger": "1"}
    for kind in (Kind.DECLARATION, Kind.EVALUATION, Kind.GATE):
        assert len(soundness.records(place, kind, run_name)) == 1
    soundness.assert_nothing_broken(place)


def test_a_rollout_that_was_killed_everywhere_moves_traffic_once_through_each_step(place: Place, server: str) -> None:
    place = place.declared(gate=ANY_MODEL_PASSES)
    ingest_months(place, JANUARY, FEBRUARY)
    for version in ("1", "2"):
        assert register_candidate(place, FEBRUARY, f"t{version}") == version
        about = {"version": version, "url": server, "run": f"d{version}"}
        _, checked = killed_everywhere(tasks.check_serving, place, **about)
        moving, moved = killed_everywhere(tasks.deploy_model, place, **about)
        assert checked.succeeded, checked.message
        assert moved.succeeded, moved.message
        assert moving

    going_back, back = killed_everywhere(tasks.rollback_model, place, url=server, run="back")

    assert back.succeeded, back.message
    assert {"_append rollback #1", "_append traffic #1"} <= set(going_back)
    assert [(one["split"], one["settled"]) for one in soundness.records(place, Kind.TRAFFIC)] == [
        ({"1": 100}, False),
        ({"1": 100}, True),
        ({"1": 100, "2": 0}, False),
        ({"1": 50, "2": 50}, False),
        ({"2": 100}, False),
        ({"2": 100}, True),
        ({"1": 100}, True),
    ]
    assert [one["version"] for one in soundness.records(place, Kind.PROMOTION)] == ["1", "2"]
    assert [one["refused"] for one in soundness.records(place, Kind.ROLLBACK)] == [["2"]]
    assert place.stores().registry.aliases(MODEL)["champion"] == "1"
    soundness.assert_nothing_broken(place)

"""
A first try that lives on while the second runs.

A worker that is killed leaves its task's process behind, so two tries of one task work at the same time. The first is
halted at each point of its work, the second runs to its end, then the first goes on; and both run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.steps import ingest, train
from support import soundness, tasks
from support.children import Child, overtaken, run, side_by_side
from support.tiny import (
    ANY_MODEL_PASSES,
    FEBRUARY,
    JANUARY,
    MODEL,
    Place,
    ingest_month,
    ingest_months,
    origin,
    register_candidate,
    train_candidate,
    trips,
    with_bad_rows,
    write_month,
)

ROUNDS = 2
"""Times that two tries run side by side."""

Subject = tuple[Place, dict[str, Any]]
Subjects = Callable[[Place], Iterable[Subject]]


def agreed(tries: Sequence[Child]) -> Any:
    """Both tries ended well with one result, or one did and the other is to be tried again; give the result."""
    for one in tries:
        assert one.succeeded or one.transient, f"{one.error}: {one.message}, after {one.points}"
    results = [one.result for one in tries if one.succeeded]
    assert results, [one.message for one in tries]
    assert results[0] == results[-1]
    return results[0]


def overtaken_everywhere(step: Callable[..., Any], subjects: Iterable[Subject]) -> Iterator[tuple[Subject, Any]]:
    """Overtake a first try at each of its points, on a subject of its own each time; give subject and result."""
    passed: list[str] = []
    for place, arguments in subjects:
        tries = overtaken(step, place, passed, **arguments)
        yield (place, arguments), agreed(tries)
        if len(tries) == 1:
            break
        passed.append(next(point for point in tries[0].points if point not in passed))
    assert passed


def raced(step: Callable[..., Any], subjects: Iterable[Subject]) -> Iterator[tuple[Subject, Any]]:
    """Run two tries side by side, a few times; give subject and result."""
    for place, arguments in islice(subjects, ROUNDS):
        yield (place, arguments), agreed(side_by_side(step, place, **arguments))


both_ways = pytest.mark.parametrize("tried", [overtaken_everywhere, raced])


# Ingest: each subject is a first month, in stores of its own.


def not_landed(place: Place) -> Iterator[Subject]:
    for number in count():
        one = Place(place.folder / f"{number}")
        one.source.mkdir(parents=True)
        write_month(one.source, JANUARY, with_bad_rows(trips(JANUARY)))
        yield one, {"month": JANUARY, "run": "r"}


def landed(place: Place) -> Iterator[Subject]:
    for one, about in not_landed(place):
        raw = ingest.land(one.spec(), one.stores(), JANUARY, origin=origin("land_data", "r"))
        yield one, about | {"landed": raw.as_json()}


def validated(place: Place) -> Iterator[Subject]:
    for one, about in not_landed(place):
        spec, stores = one.spec(), one.stores()
        raw = ingest.land(spec, stores, JANUARY, origin=origin("land_data", "r"))
        clean = ingest.validate(spec, stores, JANUARY, raw, origin=origin("validate_data", "r"))
        yield one, about | {"clean": clean.as_json()}


@both_ways
@pytest.mark.parametrize(
    ("step", "subjects", "table", "kind"),
    [
        (tasks.land, not_landed, Table.RAW, Kind.LANDING),
        (tasks.validate, landed, Table.CLEAN, Kind.VALIDATION),
        (tasks.build_features, validated, Table.FEATURES, Kind.FEATURES),
    ],
    ids=["landing", "validation", "features"],
)
def test_two_tries_of_an_ingest_at_once_leave_what_one_leaves(
    place: Place, undisturbed: Place, tried: Any, step: Any, subjects: Subjects, table: Table, kind: Kind
) -> None:
    write_month(undisturbed.source, JANUARY, with_bad_rows(trips(JANUARY)))
    ingest_month(undisturbed, JANUARY)
    expected = soundness.contents(undisturbed)[table, JANUARY]

    for (one, _), _ in tried(step, subjects(place)):
        assert soundness.contents(one)[table, JANUARY] == expected
        assert soundness.replacements(one, table, JANUARY) == 1
        assert len(soundness.records(one, kind, "r")) == 1
        soundness.assert_nothing_broken(one)


# Training: each subject is a DAG run of its own, on the same months.


def declared(place: Place) -> Iterator[Subject]:
    for number in count():
        name, spec, stores = f"t{number}", place.spec(), place.stores()
        declaration = train.declare_gate(spec, stores, FEBRUARY, origin=origin("declare_gate", name))
        yield place, {"through": FEBRUARY, "run": name, "declaration": declaration}


def judged(place: Place) -> Iterator[Subject]:
    for number in count():
        run_id, verdict = train_candidate(place, FEBRUARY, f"t{number}")
        yield place, {"run": f"t{number}", "run_id": run_id, "verdict": verdict}


@both_ways
@pytest.mark.usefixtures("with_mlflow")
def test_two_tries_of_a_training_at_once_leave_one_run_with_one_model(place: Place, tried: Any) -> None:
    ingest_months(place, JANUARY, FEBRUARY)

    for (_, about), run_id in tried(tasks.train_model, declared(place)):
        assert soundness.assert_trained_once(place, about["run"]) == run_id

    soundness.assert_nothing_broken(place)


@both_ways
@pytest.mark.usefixtures("with_mlflow")
def test_two_tries_of_a_registration_at_once_leave_one_version(place: Place, tried: Any) -> None:
    ingest_months(place, JANUARY, FEBRUARY)

    for (_, about), version in tried(tasks.register_model, judged(place)):
        assert soundness.assert_registered_once(place, about["run_id"]) == version

    soundness.assert_nothing_broken(place)


@pytest.mark.usefixtures("with_mlflow")
def test_two_tries_of_each_decision_at_once_leave_one_record(place: Place) -> None:
    ingest_months(place, JANUARY, FEBRUARY)
    about: dict[str, Any] = {"run": "t", "through": FEBRUARY}

    about["declaration"] = agreed(side_by_side(tasks.declare_gate, place, **about))
    trained = run(tasks.train_model, place, **about)
    evaluation = agreed(side_by_side(tasks.evaluate_model, place, **about, run_id=trained.result))
    verdict = agreed(
        side_by_side(tasks.decide_gate, place, run="t", evaluation=evaluation, declaration=about["declaration"])
    )

    ledger = place.stores().ledger
    assert ledger.get(verdict).payload["evaluation"] == evaluation
    for kind in (Kind.DECLARATION, Kind.EVALUATION, Kind.GATE):
        assert len(soundness.records(place, kind, "t")) == 1
    for month in (JANUARY, FEBRUARY):
        assert soundness.replacements(place, Table.OUTCOMES, month) == 1
    soundness.assert_nothing_broken(place)


# Deployment: each subject is the next version.


def registered(place: Place, server: str) -> Iterator[Subject]:
    for number in count():
        version = register_candidate(place, FEBRUARY, f"t{number}")
        yield place, {"version": version, "url": server, "run": f"d{number}"}


@both_ways
def test_two_tries_of_a_rollout_at_once_settle_it_once(place: Place, server: str, tried: Any) -> None:
    place = place.declared(gate=ANY_MODEL_PASSES)
    ingest_months(place, JANUARY, FEBRUARY)

    for (_, about), traffic in tried(tasks.deploy_model, registered(place, server)):
        version = about["version"]
        assert (traffic["split"], traffic["settled"]) == ({version: 100}, True)
        steps = [dict(one["split"]) for one in soundness.records(place, Kind.TRAFFIC) if version in one["split"]]
        shares = [split[version] for split in steps]
        assert shares == ([100, 100] if version == "1" else [0, 50, 100, 100])
        assert [one["version"] for one in soundness.records(place, Kind.PROMOTION)].count(version) == 1
        assert place.stores().registry.aliases(MODEL)["champion"] == version

    soundness.assert_nothing_broken(place)

"""DAG runs that do the same at the same time: each is answered, one of them wins, the other is told what to do."""

from __future__ import annotations

import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.core.references import TableRef
from support import soundness, tasks
from support.children import run, start, together
from support.tiny import (
    ANY_MODEL_PASSES,
    FEBRUARY,
    JANUARY,
    MARCH,
    MODEL,
    Place,
    ingest_months,
    register_candidate,
    trips,
    with_bad_rows,
    write_month,
)


def test_two_runs_that_ingest_one_month_at_once_write_it_once(place: Place) -> None:
    write_month(place.source, JANUARY, with_bad_rows(trips(JANUARY)))

    runs = together(*(start(tasks.ingest_all, place, month=JANUARY, run=name) for name in ("r1", "r2")))

    for one in runs:
        assert one.succeeded or one.transient or one.error == "NothingToDo", one.message
    for name in ("r1", "r2"):
        again = run(tasks.ingest_all, place, month=JANUARY, run=name)
        assert again.succeeded or again.error == "NothingToDo", again.message
    for table in (Table.RAW, Table.QUARANTINE, Table.CLEAN, Table.FEATURES):
        assert soundness.replacements(place, table, JANUARY) == 1
    soundness.assert_nothing_broken(place)


def test_months_that_are_ingested_at_once_do_not_disturb_each_other(place: Place) -> None:
    months = [JANUARY, FEBRUARY, MARCH]
    for month in months:
        write_month(place.source, month)

    runs = together(*(start(tasks.ingest_all, place, month=month, run=month) for month in months))

    for one in runs:
        assert one.succeeded or one.transient, one.message  # a month waits for the history of the one before
    for month in months:
        again = run(tasks.ingest_all, place, month=month, run=month)
        assert again.succeeded, again.message
        built = place.stores().tables.read(TableRef.from_json(again.result))
        assert sorted(built["trip"]) == sorted(trips(month)["trip"])
    soundness.assert_nothing_broken(place)


@pytest.mark.usefixtures("with_mlflow")
def test_two_trainings_at_once_both_get_a_verdict_and_a_version(place: Place) -> None:
    ingest_months(place, JANUARY, FEBRUARY)

    names = ("t1", "t2")

    for one in together(*(start(tasks.train_all, place, through=FEBRUARY, run=name) for name in names)):
        assert one.succeeded or one.transient, f"{one.error}: {one.message}"
    again = [run(tasks.train_all, place, through=FEBRUARY, run=name) for name in names]

    versions = [soundness.assert_registered_once(place, soundness.assert_trained_once(place, name)) for name in names]
    assert versions == [one.result for one in again]
    assert set(versions) == {"1", "2"}
    for kind in (Kind.DECLARATION, Kind.EVALUATION, Kind.GATE):
        assert len(soundness.records(place, kind)) == 2
    assert all(one["passed"] for one in soundness.records(place, Kind.GATE))
    soundness.assert_nothing_broken(place)


def test_of_two_rollouts_at_once_one_serves_and_the_other_is_told_to_train_again(place: Place, server: str) -> None:
    ingest_months(place, JANUARY, FEBRUARY)
    versions = [register_candidate(place, FEBRUARY, f"t{number}") for number in (1, 2)]

    both = together(
        *(start(tasks.roll_out, place, version=version, url=server, run=f"d{version}") for version in versions)
    )

    (winner,) = [version for version, one in zip(versions, both, strict=True) if one.succeeded]
    (loser,) = set(versions) - {winner}
    lost = both[versions.index(loser)]
    assert lost.transient or lost.error == "RolloutRefusedError", lost.message
    retried = run(tasks.roll_out, place, version=loser, url=server, run=f"d{loser}")
    assert retried.error == "RolloutRefusedError"
    assert f"but version {winner} serves now. Train again" in retried.message
    assert [one["version"] for one in soundness.records(place, Kind.PROMOTION)] == [winner]
    assert soundness.records(place, Kind.TRAFFIC)[-1]["split"] == {winner: 100}
    assert place.stores().registry.aliases(MODEL)["champion"] == winner
    soundness.assert_nothing_broken(place)


def test_two_rollbacks_at_once_go_back_once(place: Place, server: str) -> None:
    place = place.declared(gate=ANY_MODEL_PASSES)
    ingest_months(place, JANUARY, FEBRUARY)
    for version in ("1", "2"):
        assert register_candidate(place, FEBRUARY, f"t{version}") == version
        assert run(tasks.roll_out, place, version=version, url=server, run=f"d{version}").succeeded

    both = together(*(start(tasks.rollback_model, place, url=server, run=name) for name in ("b1", "b2")))

    assert any(one.succeeded for one in both), [one.message for one in both]
    for one in both:
        assert one.succeeded or one.transient or "Nothing to roll back to" in one.message, one.message
    newest = soundness.records(place, Kind.TRAFFIC)[-1]
    assert (newest["split"], newest["settled"]) == ({"1": 100}, True)
    assert [one["refused"] for one in soundness.records(place, Kind.ROLLBACK)] == [["2"]]
    assert place.stores().registry.aliases(MODEL)["champion"] == "1"
    soundness.assert_nothing_broken(place)

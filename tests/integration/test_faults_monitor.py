"""
`kill -9` of the steps that score and watch a month, and first tries that live on while the second runs.

Each test has a copy of one place, where a version serves that passed its gate on February.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.stores.predictions import SegmentWriter
from support import soundness, tasks
from support.children import killed_everywhere, overtaken, run, side_by_side
from support.tiny import FEBRUARY, JANUARY, MARCH, MODEL, Place, ingest_months, register_candidate

SEGMENTS = {"a": 2, "b": 1}
"""Segments that each replica has sealed; every one holds two rows."""


@pytest.fixture(scope="module")
def in_service(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Place]:
    """Version 1 serves, and the features of March are there; not to be changed."""
    made = Place(tmp_path_factory.mktemp("in_service"))
    made.source.mkdir()
    shutil.copy(empty_mlflow, made.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_SOURCE", str(made.source))
        ingest_months(made, JANUARY, FEBRUARY)
        version = register_candidate(made, FEBRUARY, "t")
        ledger = made.stores().ledger
        ledger.propose_traffic(MODEL, {version: 100}, settled=True, expected_generation=0)
        ingest_months(made, MARCH)
        ledger.close()
        yield made


@pytest.fixture
def serving(in_service: Place, place: Place) -> Place:
    """A copy of it to change. What MLflow stored stays where it is: its addresses are absolute."""
    return copied(in_service, place.folder / "copy")


def copied(place: Place, folder: Path) -> Place:
    shutil.copytree(place.folder, folder, ignore=shutil.ignore_patterns("children.log", "artifacts"))
    return replace(place, folder=folder)


def answer(place: Place, round_: int = 0) -> int:
    """Let replicas answer some requests and seal what they logged; give the number of rows."""
    rows = 0
    for replica, number in SEGMENTS.items():
        for segment in range(number):
            writer = SegmentWriter(place.folder / "spool" / MODEL, replica)
            asked = f"{replica}-{round_}-{segment}"
            writer.append([{"request_id": asked, "row": row, "prediction": 0.5} for row in range(2)])
            writer.close()
            rows += 2
    return rows


def assert_delivered_once(place: Place, rows: int, segments: int) -> None:
    log = place.stores().tables.read(place.table(Table.PREDICTION_LOG))
    assert len(log) == rows
    assert not log.duplicated(soundness.ANSWER_KEYS).any()
    delivered = soundness.records(place, Kind.DELIVERY)
    assert sum(one["rows"] for one in delivered) == rows
    assert sum(one["segments"] for one in delivered) == segments
    assert not list((place.folder / "spool").rglob("*.sealed"))


def snapshots(place: Place) -> int:
    return len(list((place.folder / "workspace").glob("*/snapshots/*.json")))


def test_a_month_that_was_killed_everywhere_is_scored_and_watched_once(serving: Place) -> None:
    about: dict[str, Any] = {"month": MARCH, "run": "m"}

    scoring, scored = killed_everywhere(tasks.score_batch, serving, **about)
    recording, recorded = killed_everywhere(tasks.record_outcomes, serving, **about)
    measuring, measured = killed_everywhere(tasks.measure_performance, serving, **about)
    comparing, compared = killed_everywhere(tasks.detect_drift, serving, **about)
    deciding, decided = killed_everywhere(
        tasks.decide_retrain, serving, **about, performance=measured.result, drift=compared.result
    )

    assert {"committed predictions #1", "_append predictions #1"} <= set(scoring)
    assert {"committed outcomes #1", "_append outcomes #1"} <= set(recording)
    assert measuring == ["_append performance #1"]
    assert comparing == ["write #1", "log_snapshot #1", "_append drift #1"]
    assert deciding == ["_append retrain #1"]
    for child in (scored, recorded, measured, compared, decided):
        assert child.succeeded, child.message
    for table in (Table.PREDICTIONS, Table.OUTCOMES):
        assert soundness.replacements(serving, table, MARCH) == 1
    for kind in (Kind.PREDICTIONS, Kind.OUTCOMES, Kind.PERFORMANCE, Kind.DRIFT, Kind.RETRAIN):
        assert len(soundness.records(serving, kind, "m")) == 1
    assert soundness.records(serving, Kind.PERFORMANCE, "m")[0]["rows"] == 600
    assert snapshots(serving) == 1
    soundness.assert_nothing_broken(serving)


def test_a_delivery_that_was_killed_everywhere_delivers_and_records_each_segment_once(place: Place) -> None:
    rows = answer(place)

    points, child = killed_everywhere(tasks.deliver_predictions, place, run="m")

    assert {"committed prediction_log #1", "unlink .sealed #1", "_append delivery #1"} <= set(points)
    assert child.succeeded, child.message
    assert_delivered_once(place, rows, segments=3)
    soundness.assert_nothing_broken(place)


def test_two_tries_of_a_delivery_at_once_deliver_and_record_each_segment_once(place: Place) -> None:
    rows, passed = 0, list[str]()
    for round_ in count(1):
        rows += answer(place, round_)
        tries = overtaken(tasks.deliver_predictions, place, passed, run=f"m{round_}")
        for one in tries:
            assert one.succeeded or one.transient, f"{one.error}: {one.message}, after {one.points}"
        if len(tries) == 1:
            break
        passed.append(next(point for point in tries[0].points if point not in passed))
        if not all(one.succeeded for one in tries):
            assert run(tasks.deliver_predictions, place, run=f"m{round_}").succeeded
        assert_delivered_once(place, rows, segments=3 * round_)
    assert passed
    for round_ in range(100, 102):
        rows += answer(place, round_)
        assert any(one.succeeded for one in side_by_side(tasks.deliver_predictions, place, run=f"m{round_}"))
    run(tasks.deliver_predictions, place, run="the last")
    assert len(place.stores().tables.read(place.table(Table.PREDICTION_LOG))) == rows
    assert sum(one["rows"] for one in soundness.records(place, Kind.DELIVERY)) == rows
    soundness.assert_nothing_broken(place)


@pytest.mark.parametrize(
    ("step", "kind", "table"),
    [
        (tasks.score_batch, Kind.PREDICTIONS, Table.PREDICTIONS),
        (tasks.record_outcomes, Kind.OUTCOMES, Table.OUTCOMES),
        (tasks.measure_performance, Kind.PERFORMANCE, None),
        (tasks.detect_drift, Kind.DRIFT, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_two_tries_of_a_step_at_once_leave_what_one_leaves(
    serving: Place, step: Any, kind: Kind, table: Table | None
) -> None:
    if table is None:
        for needed in (tasks.score_batch, tasks.record_outcomes):
            needed(serving, month=MARCH, run="before")
    passed: list[str] = []
    for number in count():
        one = copied(serving, serving.folder.parent / f"{number}")
        tries = overtaken(step, one, passed, month=MARCH, run="m")
        for each in tries:
            assert each.succeeded or each.transient, f"{each.error}: {each.message}, after {each.points}"
        results = [each.result for each in tries if each.succeeded]
        assert results
        assert results[0] == results[-1]
        assert len(soundness.records(one, kind, "m")) == 1
        assert table is None or soundness.replacements(one, table, MARCH) == 1
        assert snapshots(one) == (kind == Kind.DRIFT)
        soundness.assert_nothing_broken(one)
        if len(tries) == 1:
            break
        passed.append(next(point for point in tries[0].points if point not in passed))
    assert passed

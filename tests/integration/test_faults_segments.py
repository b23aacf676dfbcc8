"""One model per segment when tasks die or repeat, code changes, files are lost, and rows are few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from mlops_provider.core import chunks
from mlops_provider.core.names import Kind, Task
from mlops_provider.exceptions import DataRejectedError, EvidenceError, PermanentError
from mlops_provider.steps import chunked, monitor, score
from support import soundness, tasks
from support.children import killed_everywhere
from support.divided import decisions, divided, prepared, released, trained
from support.tiny import FEBRUARY, JANUARY, MARCH, Place
from support.tiny import origin as task_of


@pytest.fixture
def prepared_place(place: Place, with_mlflow: None) -> Place:
    return prepared(place)


def test_every_step_gives_a_retry_what_its_first_try_did(prepared_place: Place) -> None:
    first = trained(prepared_place)
    runs = soundness.mlflow_runs(prepared_place, "t")

    assert trained(prepared_place) == first
    assert (
        sorted(soundness.mlflow_runs(prepared_place, "t")) == sorted(runs) == sorted([first["parent"], first["whole"]])
    )
    assert [len(soundness.records(prepared_place, kind)) for kind in (Kind.SEGMENTS, Kind.SEGMENT)] == [1, 4]


def test_tasks_that_were_killed_everywhere_leave_one_decision_each_and_one_whole(prepared_place: Place) -> None:
    place = prepared_place
    about: dict[str, Any] = {"through": FEBRUARY, "run": "t"}
    about["declaration"] = tasks.declare_gate(place, **about)
    parent = tasks.train_model(place, **about)

    planning, planned = killed_everywhere(tasks.plan_segments, place, **about, run_id=parent)
    decided, choosing = [], []
    for index, segment in enumerate(planned.result):
        points, child = killed_everywhere(tasks.train_segment, place, **about, segment=segment, index=index)
        assert child.succeeded, child.message
        decided.append(child.result)
        choosing += points
    assembling, whole = killed_everywhere(tasks.assemble_model, place, **about, run_id=parent, decided=decided)

    assert {"log_artifact #1", "_append segments #1"} <= set(planning)
    assert {"log_artifact #1", "_append segment #1"} <= set(choosing)
    assert {"create_run #1", "create_logged_model #1", "_append training #1"} <= set(assembling)
    assert whole.succeeded, whole.message
    assert [len(soundness.records(place, kind)) for kind in (Kind.SEGMENTS, Kind.SEGMENT)] == [1, 4]
    assert sorted(soundness.mlflow_runs(place, "t")) == sorted([parent, whole.result])
    soundness.assert_nothing_broken(place)


def test_one_version_is_made_by_one_code(prepared_place: Place) -> None:
    place = prepared_place
    about: dict[str, Any] = {"through": FEBRUARY, "run": "t"}
    about["declaration"] = tasks.declare_gate(place, **about)
    parent = tasks.train_model(place, **about)
    planned = tasks.plan_segments(place, **about, run_id=parent)
    decided = [tasks.train_segment(place, **about, segment=each, index=i) for i, each in enumerate(planned)]
    code, declared = place.use_case / "model.py", place.use_case / "model.yaml"
    before = code.read_text(), declared.read_text()
    changed = "changed since this run began .* Start another training run"

    for after in ((before[0] + "\n# other\n", before[1]), (before[0], before[1].replace("seed: ", "seed: 1"))):
        assert after != before
        code.write_text(after[0])
        declared.write_text(after[1])
        with pytest.raises(EvidenceError, match=changed):
            tasks.plan_segments(place, **about, run_id=parent)
        with pytest.raises(EvidenceError, match=changed):
            tasks.train_segment(place, **about, segment=planned[3], index=3)
        with pytest.raises(EvidenceError, match=changed):
            tasks.assemble_model(place, **about, run_id=parent, decided=decided)
    code.write_text(before[0])
    # What is cleared because it needs a larger worker, or more threads there, goes on where it was.
    moved = yaml.safe_load(before[1]) | {"resources": {"train_segment": {"queue": "large", "threads": 2}}}
    declared.write_text(yaml.safe_dump(moved))

    assert tasks.train_model(place, **about) == parent
    assert tasks.plan_segments(place, **about, run_id=parent) == planned
    assert tasks.train_segment(place, **about, segment=planned[3], index=3) == decided[3]
    assert tasks.assemble_model(place, **about, run_id=parent, decided=decided) != parent


def test_a_segment_with_a_handful_of_one_outcome_is_not_judged(place: Place, with_mlflow: None) -> None:
    frame = divided(JANUARY)
    later = frame["started"] > frame["started"].quantile(0.8)
    late_c = frame.index[later & (frame["line"] == "C") & (frame["delay"] > 5)]
    frame.loc[late_c[4:], "delay"] = 1.0
    place = prepared(place, january=frame)

    found = decisions(place, trained(place))

    assert found["C"]["answered_by"] == "parent"
    assert found["C"]["reason"].startswith("Too few rows of the rarer class: ")
    assert " and 4 to be judged on, at least 20 of each needed." in found["C"]["reason"]


def test_blocks_count_where_they_hold_the_rarer_class(place: Place, with_mlflow: None) -> None:
    frame = divided(JANUARY)
    later = frame["started"] > frame["started"].quantile(0.8, interpolation="lower")
    rows = frame[later & (frame["line"] == "C")]
    hours = rows["started"].dt.floor("h").groupby(rows["delay"] > 5).nunique()
    place = prepared(place, bootstrap={"resamples": 100, "block": "hour"})
    about: dict[str, Any] = {"through": FEBRUARY, "run": "t"}
    about["declaration"] = tasks.declare_gate(place, **about)
    planned = tasks.plan_segments(place, **about, run_id=tasks.train_model(place, **about))

    plan = place.stores().ledger.get(planned[2]["plan"]).payload["segments"][2]

    assert plan["value"] == "C"
    assert plan["blocks"] == hours.min() < rows["started"].dt.floor("h").nunique()
    assert plan["validation_rare"] == (rows["delay"] > 5).value_counts().min()


def test_a_month_in_chunks_is_scored_as_in_one_piece(prepared_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "BLOCK_ROWS", 16)
    place = prepared_place
    made = trained(place)
    released(place, made["whole"], made["declaration"], run="t")
    stores, file = place.stores(), place.use_case / "model.yaml"
    whole = stores.tables.read(score.score(place.spec(), stores, MARCH, origin=task_of("score_batch", "whole")))
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"chunk_rows": 512}))

    planned = chunked.plan(Task.SCORE_BATCH, place.spec(), stores, MARCH, origin=task_of("score_batch_plan", "cut"))
    pieces = [chunked.work(place.spec(), stores, each) for each in planned]
    ref = score.score(place.spec(), stores, MARCH, chunks=pieces, origin=task_of("score_batch", "cut"))

    assert len(planned) == 5
    cut = stores.tables.read(ref)
    assert set(cut["answered_by"]) == {"C", "parent"}
    columns = ["trip", "prediction", "answered_by"]
    pd.testing.assert_frame_equal(cut[columns], whole[columns])


def test_a_child_whose_file_was_changed_or_is_gone_answers_nothing(prepared_place: Place) -> None:
    place = prepared_place
    made = trained(place)
    kept = decisions(place, made)["C"]["child"]
    client = MlflowClient(place.stores().registry.tracking_uri)
    file = Path(client.get_run(made["parent"]).info.artifact_uri.removeprefix("file://"), kept["path"])
    file.write_bytes(file.read_bytes() + b"x")
    again = {"through": FEBRUARY, "run": "again", "declaration": made["declaration"]}

    with pytest.raises(EvidenceError, match=r"was changed: SHA-256 .* start another training run"):
        tasks.assemble_model(place, **again, run_id=made["parent"], decided=made["decided"])
    with pytest.raises(EvidenceError, match="3 were decided for run"):
        tasks.assemble_model(place, **again, run_id=made["parent"], decided=made["decided"][:3])
    file.unlink()
    with pytest.raises(PermanentError, match=r"is not there any more\. .* is lost, .* start another training run"):
        tasks.assemble_model(place, **again, run_id=made["parent"], decided=made["decided"])


def test_a_version_without_segments_may_follow_one_with_them(prepared_place: Place) -> None:
    place = prepared_place
    made = trained(place)
    released(place, made["whole"], made["declaration"], run="t")
    score.score(place.spec(), place.stores(), MARCH, origin=task_of("score_batch", "s"))
    declaration = yaml.safe_load((place.use_case / "model.yaml").read_text())
    (place.use_case / "model.yaml").write_text(
        yaml.safe_dump({name: value for name, value in declaration.items() if name != "segments"})
    )
    about = {"through": FEBRUARY, "run": "plain"}
    about["declaration"] = tasks.declare_gate(place, **about)
    released(place, tasks.train_model(place, **about), about["declaration"], run="plain")
    spec, stores = place.spec(), place.stores()

    again = stores.tables.read(score.score(spec, stores, MARCH, origin=task_of("score_batch", "again")))
    monitor.record_outcomes(spec, stores, MARCH, origin=task_of("record_outcomes", "m"))
    record = monitor.measure_performance(spec, stores, MARCH, origin=task_of("measure_performance", "m"))

    assert set(again["version"]) == {"2"}
    assert again["answered_by"].isna().all()
    assert {each["column"] for each in stores.ledger.get(record).payload["slices"]} == {"line"}


def test_more_segments_than_declared_are_refused_with_their_number(prepared_place: Place) -> None:
    declaration = prepared_place.use_case / "model.yaml"
    declaration.write_text(declaration.read_text().replace("minimum_rows: 40", "minimum_rows: 40\n  maximum: 3"))
    about: dict[str, Any] = {"through": FEBRUARY, "run": "t"}
    about["declaration"] = tasks.declare_gate(prepared_place, **about)
    parent = tasks.train_model(prepared_place, **about)

    with pytest.raises(DataRejectedError, match=r"hold 4 values of 'line', and 1 to 3 can be segments"):
        tasks.plan_segments(prepared_place, **about, run_id=parent)

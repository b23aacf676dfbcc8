"""
One model per segment, on rows whose law is known.

Trips of line C are late where those of the others are in time, so it needs a model of its own; B is noise; D has hardly
any rows. No model sees the line as a feature.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from mlops_provider.cli.main import main
from mlops_provider.core import chunks
from mlops_provider.core.evaluation import Evaluation
from mlops_provider.core.evidence import original
from mlops_provider.core.names import Header, Kind, Table, Task
from mlops_provider.exceptions import DataRejectedError, EvidenceError, PermanentError
from mlops_provider.steps import chunked, monitor, score
from mlops_provider.steps.promote import promote
from mlops_provider.steps.provenance import made_of, registration, training_of
from support import soundness, tasks
from support.children import killed_everywhere
from support.served import served
from support.stack import wait_until
from support.tiny import (
    ANY_MODEL_PASSES,
    FEBRUARY,
    JANUARY,
    MARCH,
    MODEL,
    Place,
    environments,
    ingest_month,
    trips,
    write_month,
)
from support.tiny import origin as task_of

SEGMENTS = {"column": "line", "minimum_rows": 40}


def divided(month: str, rows: int = 2400) -> pd.DataFrame:
    """A month of trips, whose lines follow laws of their own."""
    random = np.random.default_rng([9, *map(int, month.split("-"))])
    frame = trips(month, rows=rows)
    line = random.choice(["A", "B", "C", "D"], rows, p=[0.66, 0.15, 0.15, 0.04])
    late = (frame["delay"] > 5).to_numpy()
    late = np.where(line == "C", ~late, np.where(line == "B", random.random(rows) < 0.4, late))
    return frame.assign(line=line, delay=np.where(late, 12.0, 1.0))


def prepared(place: Place, january: pd.DataFrame | None = None, **changes: Any) -> Place:
    """January to March of that, and a use case whose model does not see the line."""
    declared = {"segments": SEGMENTS, "gate": ANY_MODEL_PASSES, "rollout": {"steps": [100]}, **changes}
    made = place.declared(**declared)
    code = made.use_case / "model.py"
    code.write_text(code.read_text().replace('("words", words, ["line"])', '("words", "drop", ["line"])'))
    for month in (JANUARY, FEBRUARY, MARCH):
        frame = divided(month) if january is None or month != JANUARY else january
        write_month(made.source, month, frame)
        ingest_month(made, month)
    return made


def trained(place: Place, run: str = "t") -> dict[str, Any]:
    """Go through training up to the whole; give what tasks hand each other."""
    about: dict[str, Any] = {"through": FEBRUARY, "run": run}
    about["declaration"] = tasks.declare_gate(place, **about)
    parent = tasks.train_model(place, **about)
    planned = tasks.plan_segments(place, **about, run_id=parent)
    decided = [
        tasks.train_segment(place, **about, segment=segment, index=index) for index, segment in enumerate(planned)
    ]
    whole = tasks.assemble_model(place, **about, run_id=parent, decided=decided)
    return {**about, "parent": parent, "planned": planned, "decided": decided, "whole": whole}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> tuple[Place, dict[str, Any]]:
    """A version of segments, registered and with all the traffic; not to be changed."""
    place = Place(tmp_path_factory.mktemp("segments"))
    place.source.mkdir()
    shutil.copy(empty_mlflow, place.folder)
    place = prepared(place)
    made = trained(place)
    made |= released(place, made["whole"], made["declaration"], run="t")
    return place, made


def released(place: Place, run_id: str, declaration: str, *, run: str) -> dict[str, Any]:
    """Judge and register a candidate and give it all the traffic."""
    spec, stores = place.spec(), place.stores()
    evaluation = tasks.evaluate_model(place, FEBRUARY, run, run_id, declaration)
    verdict = tasks.decide_gate(place, run, evaluation, declaration)
    version = tasks.register_model(place, run, run_id, verdict)
    now = stores.ledger.traffic(MODEL)
    generation = now.generation if now else 0
    stores.ledger.propose_traffic(spec.name, {version: 100}, settled=True, expected_generation=generation)
    return {"evaluation": evaluation, "verdict": verdict, "version": version}


def decisions(place: Place, made: dict[str, Any]) -> dict[str, Any]:
    found = [place.stores().ledger.get(record).payload for record in made["decided"]]
    return {each["segment"]: each for each in found}


def test_a_segment_that_needs_a_model_of_its_own_gets_one_noise_and_a_handful_of_rows_do_not(
    lived: tuple[Place, dict[str, Any]],
) -> None:
    found = decisions(*lived)

    assert {value: each["answered_by"] for value, each in found.items()} == {
        "A": "parent", "B": "parent", "C": "C", "D": "parent",
    }  # fmt: skip
    assert found["C"]["reason"].startswith("Better than the parent: roc_auc differs by +0.")
    assert found["C"]["scores"]["child"]["value"] > 0.75 > 0.5 > found["C"]["scores"]["parent"]["value"]
    assert found["B"]["reason"].startswith("Not shown better than the parent")
    assert found["D"]["reason"].startswith("Too few rows: ")
    assert found["D"]["scores"] == {}


def test_the_plan_says_what_was_judged_on_what_and_how_surely(lived: tuple[Place, dict[str, Any]]) -> None:
    place, made = lived
    plan = place.stores().ledger.get(made["planned"][0]["plan"]).payload

    assert [each["value"] for each in plan["segments"]] == ["A", "B", "C", "D"]
    assert (plan["judged"], plan["column"], plan["metric"]) == (3, "line", "roc_auc")
    assert plan["confidence"] == pytest.approx(1 - 0.05 / 3)
    assert (plan["resamples"], plan["measured_at"]) == (1000, 0.95)
    assert (plan["spec_digest"], plan["code_digest"]) == (place.spec().digest, place.spec().code_digest)
    assert all(20 <= each["validation_rare"] <= each["validation_rows"] / 2 for each in plan["segments"][:3])
    assert plan["rows"] + plan["validation_rows"] == 2400  # January alone: its last fifth in time
    assert FEBRUARY > plan["validated_from"] > "2013-01-20"
    assert sum(each["rows"] for each in plan["segments"]) == plan["rows"]
    assert sum(each["validation_rows"] for each in plan["segments"]) == plan["validation_rows"]


def test_the_candidate_is_one_model_with_its_parent_beside_it_in_the_evaluation(
    lived: tuple[Place, dict[str, Any]],
) -> None:
    place, made = lived
    stores = place.stores()
    trained_as = stores.ledger.find(Kind.TRAINING, made["whole"]).payload
    found = Evaluation.from_json(stores.ledger.get(made["evaluation"]).payload)

    assert trained_as["parent"] == made["parent"]
    assert trained_as["children"] == ["C"]
    assert trained_as["segments"] == made["decided"]
    assert any(line.startswith("airflow-provider-mlops==") for line in trained_as["requirements"])
    assert [each.name for each in found.contenders] == ["candidate", "parent"]
    assert found.against("parent", "roc_auc").low > 0
    by_value = {each.value: each for each in found.segments}
    assert by_value["C"].answered_by == "C"
    assert by_value["C"].difference.low > 0
    assert by_value["A"].answered_by == "parent"
    assert by_value["A"].difference.low == by_value["A"].difference.high == 0
    assert sum(each.rows for each in found.segments) == found.rows
    assert "Better than its own parent: roc_auc 0." in stores.ledger.get(made["verdict"]).payload["summary"]
    page = stores.reports.read(stores.ledger.get(made["evaluation"]).payload["report"]).decode()
    assert "Who answers, by segment" in page
    assert by_value["D"].reason in page


def test_the_stored_version_routes_rows_and_is_the_parent_for_everybody_else(
    lived: tuple[Place, dict[str, Any]],
) -> None:
    place, made = lived
    registry = place.stores().registry
    model = registry.load_model(f"models:/{MODEL}/{made['version']}")
    parent = registry.load_model(place.stores().ledger.find(Kind.TRAINING, made["parent"]).payload["model_uri"])
    rows = place.stores().tables.read(place.table(Table.FEATURES), partitions=[MARCH])
    rows = rows[list(model.feature_names_in_)]

    answered, ours, theirs = model.answered_by(rows), model.predict_proba(rows), parent.predict_proba(rows)

    assert set(answered) == {"C", "parent"}
    assert (answered == "C").sum() == (rows["line"] == "C").sum()
    assert np.array_equal(ours[answered == "parent"], theirs[answered == "parent"])
    assert not np.array_equal(ours[answered == "C"], theirs[answered == "C"])


def test_what_a_version_of_segments_rests_on_is_found_from_its_registration(
    lived: tuple[Place, dict[str, Any]],
) -> None:
    place, made = lived
    ledger = place.stores().ledger
    behind = made_of(ledger, training_of(ledger, registration(ledger, MODEL, made["version"])))

    assert [each.kind for each in behind] == [Kind.TRAINING, Kind.SEGMENTS, *[Kind.SEGMENT] * 4]
    assert made_of(ledger, ledger.find(Kind.TRAINING, made["parent"])) == []


def test_predictions_say_who_answered_and_monitoring_scores_by_it(
    lived: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, _ = lived
    spec, stores = place.spec(), place.stores()
    predicted = stores.tables.read(score.score(spec, stores, MARCH, origin=task_of("score_batch", "s")))
    monitor.record_outcomes(spec, stores, MARCH, origin=task_of("record_outcomes", "m"))

    record = monitor.measure_performance(spec, stores, MARCH, origin=task_of("measure_performance", "m"))

    by_line = predicted.groupby("line")["answered_by"].unique().map(list).to_dict()
    assert by_line == {"A": ["parent"], "B": ["parent"], "C": ["C"], "D": ["parent"]}
    slices = {(each["column"], each["value"]) for each in stores.ledger.get(record).payload["slices"]}
    assert {("answered_by", "C"), ("answered_by", "parent"), ("line", "A")} <= slices


def test_the_server_says_row_by_row_who_answered_and_its_log_keeps_it(lived: tuple[Place, dict[str, Any]]) -> None:
    place, made = lived
    rows = [{"line": line, "distance": 9.0, "rain": 4.0, "rain_before": -1.0} for line in ("C", "A", "Z", "C")]
    rows.append({**rows[0], "line": None})
    with served(place) as address:
        wait_until(
            lambda: httpx.get(f"{address}/ready", trust_env=False).status_code == 200, "the version to be loaded"
        )
        answer = httpx.post(f"{address}/invocations", json={"dataframe_records": rows}, timeout=30, trust_env=False)
    spool = str(place.folder / "spool")

    assert answer.status_code == 200, answer.text
    assert answer.json()["answered_by"] == ["C", "parent", "parent", "C", "parent"]
    predictions = answer.json()["predictions"]
    assert predictions[0] == predictions[3] != predictions[1] == predictions[2] == predictions[4]
    delivered = monitor.deliver_predictions(
        place.spec(), place.stores(), spool_dir=spool, origin=task_of("deliver_predictions", "d")
    )
    assert delivered["rows"] == 5
    logged = place.stores().tables.read(place.table(Table.PREDICTION_LOG)).sort_values("row")
    assert list(logged["answered_by"]) == answer.json()["answered_by"]
    assert set(logged["version"]) == {made["version"]}


def test_a_promoted_version_brings_the_evidence_of_its_children_serves_and_is_rolled_back_to(
    lived: tuple[Place, dict[str, Any]],
    tmp_path: Path,
    empty_mlflow: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, made = lived
    staging, prod = environments(place, tmp_path, empty_mlflow)
    second = trained(staging, run="second")
    second |= released(staging, second["whole"], second["declaration"], run="second")

    def promoted(version: str) -> str:
        return promote(
            MODEL,
            version,
            source=staging.stores(),
            destination=prod.stores(),
            source_name="staging",
            destination_name="prod",
            origin=task_of("promote_model"),
        )

    assert (promoted("1"), promoted(second["version"]), promoted("1")) == ("1", "2", "1")
    ours, theirs = prod.stores(), staging.stores()
    assert ours.registry.model_digest(f"models:/{MODEL}/1") == theirs.registry.model_digest(f"models:/{MODEL}/1")
    imported = ours.ledger.history(Kind.IMPORT, MODEL)
    assert Counter(original(record).kind for record in imported) == dict.fromkeys(
        (Kind.DECLARATION, Kind.SEGMENTS, Kind.EVALUATION, Kind.GATE, Kind.REGISTRATION), 2
    ) | {Kind.TRAINING: 4, Kind.SEGMENT: 8}
    assert [ours.ledger.get(each.record_id) for each in imported] == [
        theirs.ledger.get(each.record_id) for each in imported
    ]
    behind = [made_of(each, training_of(each, registration(each, MODEL, "1"))) for each in (ours.ledger, theirs.ledger)]
    assert behind[0] == behind[1]
    assert [each.record_id for each in behind[0][2:]] == made["decided"]
    with served(prod) as address:
        for version in ("1", "2"):
            tasks.check_serving(prod, version, address, f"deploy {version}")
            tasks.deploy_model(prod, version, address, f"deploy {version}")
        back = tasks.rollback_model(prod, address, "rollback")
        row = {"line": "C", "distance": 9.0, "rain": 4.0, "rain_before": -1.0}
        answer = httpx.post(
            f"{address}/invocations", json={"dataframe_records": [row, {**row, "line": "A"}]}, timeout=30
        )
    assert (back["split"], answer.headers[Header.VERSION]) == ({"1": 100}, "1")
    assert answer.json()["answered_by"] == ["C", "parent"]
    for name in ("tables_uri", "registry_uri", "ledger_url"):
        monkeypatch.setenv(f"MLOPS_{name.upper()}", str(getattr(ours, name)))
    assert main(("audit", "verify")) == 0
    assert "2 versions" in capsys.readouterr().out


class TestFaults:
    """A place of its own, which may be damaged."""

    @pytest.fixture
    def prepared_place(self, place: Place, with_mlflow: None) -> Place:
        return prepared(place)

    def test_every_step_gives_a_retry_what_its_first_try_did(self, prepared_place: Place) -> None:
        first = trained(prepared_place)
        runs = soundness.mlflow_runs(prepared_place, "t")

        assert trained(prepared_place) == first
        assert (
            sorted(soundness.mlflow_runs(prepared_place, "t"))
            == sorted(runs)
            == sorted([first["parent"], first["whole"]])
        )
        assert [len(soundness.records(prepared_place, kind)) for kind in (Kind.SEGMENTS, Kind.SEGMENT)] == [1, 4]

    def test_tasks_that_were_killed_everywhere_leave_one_decision_each_and_one_whole(
        self, prepared_place: Place
    ) -> None:
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

    def test_one_version_is_made_by_one_code(self, prepared_place: Place) -> None:
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

    def test_a_segment_with_a_handful_of_one_outcome_is_not_judged(self, place: Place, with_mlflow: None) -> None:
        frame = divided(JANUARY)
        later = frame["started"] > frame["started"].quantile(0.8)
        late_c = frame.index[later & (frame["line"] == "C") & (frame["delay"] > 5)]
        frame.loc[late_c[4:], "delay"] = 1.0
        place = prepared(place, january=frame)

        found = decisions(place, trained(place))

        assert found["C"]["answered_by"] == "parent"
        assert found["C"]["reason"].startswith("Too few rows of the rarer class: ")
        assert " and 4 to be judged on, at least 20 of each needed." in found["C"]["reason"]

    def test_blocks_count_where_they_hold_the_rarer_class(self, place: Place, with_mlflow: None) -> None:
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

    def test_a_month_in_chunks_is_scored_as_in_one_piece(
        self, prepared_place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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

    def test_a_child_whose_file_was_changed_or_is_gone_answers_nothing(self, prepared_place: Place) -> None:
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

    def test_a_version_without_segments_may_follow_one_with_them(self, prepared_place: Place) -> None:
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

    def test_more_segments_than_declared_are_refused_with_their_number(self, prepared_place: Place) -> None:
        declaration = prepared_place.use_case / "model.yaml"
        declaration.write_text(declaration.read_text().replace("minimum_rows: 40", "minimum_rows: 40\n  maximum: 3"))
        about: dict[str, Any] = {"through": FEBRUARY, "run": "t"}
        about["declaration"] = tasks.declare_gate(prepared_place, **about)
        parent = tasks.train_model(prepared_place, **about)

        with pytest.raises(DataRejectedError, match=r"hold 4 values of 'line', and 1 to 3 can be segments"):
            tasks.plan_segments(prepared_place, **about, run_id=parent)

"""One model per segment, on rows whose law is known: who gets one; how it is judged, served, watched and promoted."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlops_provider.cli.main import main
from mlops_provider.core.evaluation import Evaluation
from mlops_provider.core.evidence import original
from mlops_provider.core.names import Header, Kind, Table
from mlops_provider.steps import monitor, score
from mlops_provider.steps.promote import promote
from mlops_provider.steps.provenance import made_of, registration, training_of
from support import tasks
from support.divided import decisions, prepared, released, trained
from support.served import served
from support.stack import wait_until
from support.tiny import FEBRUARY, MARCH, MODEL, Place, environments
from support.tiny import origin as task_of


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

"""A target that is a number, from the source to the decision to train again; its law is known, so is the best error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from mlops_provider.cli.replay_table import heading, line, row_of
from mlops_provider.core.evaluation import Evaluation
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import Header, Kind, Table
from mlops_provider.exceptions import DataRejectedError, SpecError
from mlops_provider.steps import gate, monitor, score, train
from support import tasks
from support.served import served
from support.tiny import Place, ingest_month, origin, register_candidate

MINUTES = Path(__file__).parents[1] / "use_cases" / "minutes"
MODEL = "ride_minutes"
BEST_RMSE = (3.0**2 + 2.0**2) ** 0.5  # the noise of a ride and of its day
JANUARY, FEBRUARY, MARCH, APRIL = "2013-01", "2013-02", "2013-03", "2013-04"


def at(folder: Path) -> Place:
    place = Place(folder, MINUTES)
    place.source.mkdir()
    return place


def bend(place: Place, **months: dict[str, float]) -> None:
    bent = {name.removeprefix("m").replace("_", "-"): how for name, how in months.items()}
    (place.source / "bent.json").write_text(json.dumps(bent))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[tuple[Place, str]]:
    """January to March, a first version gated on February and deployed, and the address of its server."""
    place = at(tmp_path_factory.mktemp("minutes"))
    (place.folder / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY_SOURCE", str(place.source))
        bend(place, m2013_03={"farther": 8.0, "slower": 20.0})
        for month in (JANUARY, FEBRUARY, MARCH):
            ingest_month(place, month)
        declaration = tasks.declare_gate(place, FEBRUARY, "first")
        found = train.search_parameters(
            place.spec(), place.stores(), FEBRUARY, declaration=declaration, origin=origin("search_parameters", "first")
        )
        run_id = train.train_model(
            place.spec(),
            place.stores(),
            FEBRUARY,
            parameters=found,
            declaration=declaration,
            origin=origin("train_model", "first"),
        )
        evaluation = tasks.evaluate_model(place, FEBRUARY, "first", run_id, declaration)
        verdict = tasks.decide_gate(place, "first", evaluation, declaration)
        version = tasks.register_model(place, "first", run_id, verdict)
        with served(place) as address:
            tasks.check_serving(place, version, address, "first")
            tasks.deploy_model(place, version, address, "first")
            yield place, address


def newest(place: Place, kind: Kind) -> dict[str, Any]:
    with closing(place.stores().ledger) as ledger:
        record = ledger.latest(kind, MODEL)
    assert record is not None
    return dict(record.payload)


def judged(place: Place) -> Evaluation:
    return Evaluation.from_json(newest(place, Kind.EVALUATION))


def test_the_error_is_near_the_smallest_there_is_and_below_both_baselines(world: tuple[Place, str]) -> None:
    found = judged(world[0])

    rmse = found.score("candidate", "rmse")
    assert rmse is not None
    assert BEST_RMSE * 0.8 < rmse.low < rmse.high < BEST_RMSE * 1.6
    assert set(found.contenders[0].metrics) == {"rmse", "mae", "median_absolute_error", "r2", "absolute_bias"}
    for baseline in ("dummy", "linear"):
        difference = found.against(baseline, "rmse")
        assert difference is not None
        assert difference.low > 0
    assert (found.task, found.block, found.blocks) == ("regression", "day", 28)


def test_the_verdict_speaks_of_the_metric_its_units_and_its_direction(world: tuple[Place, str]) -> None:
    verdict = newest(world[0], Kind.GATE)

    assert verdict["passed"]
    notes = " ".join(verdict["notes"])
    assert "rmse 4" in notes
    assert "keeps the maximum 6.0000" in notes
    assert "Better than the linear baseline: rmse 4" in notes
    assert "3 slices judged, highest line=" in notes
    assert "Fairness by quarter: mae_difference" in notes
    assert any("Fairness by quarter: not judged in mae_difference" in warning for warning in verdict["warnings"])
    assert any("Proxy: line tells quarter (ROC AUC 0." in warning for warning in verdict["warnings"])


def test_the_report_shows_numbers_residuals_and_groups(world: tuple[Place, str]) -> None:
    place, _ = world
    page = place.stores().reports.read(newest(place, Kind.EVALUATION)["report"]).decode()

    for text in ("RMSE ↓", "R² ↑", "Residuals of the candidate", "dummy: always the same number", "ridge regression"):
        assert text in page
    for text in ("By quarter", "Mean error difference", "drawn by whole blocks: 28, one per day"):
        assert text in page
    assert "probability" not in page


def test_the_model_does_not_see_the_protected_column(world: tuple[Place, str]) -> None:
    place, _ = world

    table = place.stores().tables.read(place.stores().tables.uri(MODEL, Table.FEATURES))
    columns = newest(place, Kind.TRAINING)["columns"]

    assert "quarter" in table
    assert columns == ["distance", "rain", "line"]


def test_the_registry_holds_a_model_whose_signature_answers_numbers(world: tuple[Place, str], tmp_path: Path) -> None:
    place, _ = world
    registry = place.stores().registry

    run = MlflowClient(registry.tracking_uri).get_run(newest(place, Kind.TRAINING)["run_id"])
    files = registry.download_model(f"models:/{MODEL}/1", tmp_path)
    signature = Model.load(str(files)).signature

    assert run.data.metrics["rmse"] > 0
    assert run.data.metrics["training_standard_deviation"] > 10
    assert signature is not None
    assert signature.outputs.inputs[0].shape == (-1,)


def test_the_server_answers_the_numbers_of_the_registered_model(world: tuple[Place, str]) -> None:
    place, address = world
    rows = pd.DataFrame({"distance": [1.0, 10.0, 10.0], "rain": [0.0, 0.0, 9.0], "line": ["A", "C", "C"]})

    answer = httpx.post(
        f"{address}/invocations", json={"dataframe_records": rows.to_dict(orient="records")}, timeout=10
    )

    model = place.stores().registry.load_model(f"models:/{MODEL}/1")
    assert answer.headers[Header.VERSION] == "1"
    alone = model.predict(rows[list(model.feature_names_in_)])
    assert answer.json()["predictions"] == pytest.approx(alone, rel=1e-12)  # by its ONNX graph
    assert answer.json()["predictions"] == pytest.approx([8, 35, 50], abs=6)


def test_months_are_scored_measured_and_decided_in_minutes(world: tuple[Place, str]) -> None:
    place, _ = world
    spec, stores = place.spec(), place.stores()
    predicted = stores.tables.read(score.score(spec, stores, MARCH, origin=origin("score_batch", "march")))

    monitor.record_outcomes(spec, stores, MARCH, origin=origin("record_outcomes", "march"))
    performance = monitor.measure_performance(spec, stores, MARCH, origin=origin("measure_performance", "march"))
    drift = monitor.detect_drift(spec, stores, MARCH, origin=origin("detect_drift", "march"))
    decision = monitor.decide_retrain(
        spec, stores, MARCH, performance=performance, drift=drift, origin=origin("decide_retrain", "march")
    )

    assert predicted["prediction"].mean() > 30
    measured = stores.ledger.get(performance).payload
    rmse, bias = (Interval.from_json(measured["metrics"][name]) for name in ("rmse", "absolute_bias"))
    assert rmse.low > 20  # the bent month is 20 minutes slower and longer than any the model knows
    assert bias.value == pytest.approx(measured_bias(stores, predicted), abs=1e-9)
    assert {each["group"] for each in measured["fairness"]["groups"]} == {"north", "south", "harbour"}
    compared = stores.ledger.get(drift).payload
    assert {"distance", "prediction"} <= set(compared["drifted"])
    assert decision["retrain"]
    assert decision["trigger"] == "performance"
    assert "at the gate, tolerated drop " in decision["reasons"][0]
    assert "(25 %)" in decision["reasons"][0]
    row = row_of(stores.ledger, MODEL, MARCH, metric="rmse")
    assert "RMSE (95 %)" in heading("rmse")
    assert f"{rmse.value:.2f} ({rmse.low:.2f}-{rmse.high:.2f})" in line(row)


def measured_bias(stores: Any, predicted: pd.DataFrame) -> float:
    outcomes = stores.tables.read(stores.tables.uri(MODEL, Table.OUTCOMES), partitions=[MARCH])
    both = predicted.merge(outcomes, on="ride")
    return float(abs((both["prediction"] - both["minutes"]).mean()))


def test_the_outcomes_record_sums_numbers_up(world: tuple[Place, str]) -> None:
    recorded = newest(world[0], Kind.OUTCOMES)

    assert recorded["mean"] > 30
    assert recorded["standard_deviation"] > 10
    assert "positive_share" not in recorded


@pytest.fixture
def fresh(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = at(tmp_path)
    (place.folder / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    monkeypatch.setenv("TINY_SOURCE", str(place.source))
    return place


def test_a_classifier_for_numbers_is_refused_before_it_is_fitted(fresh: Place) -> None:
    for month in (JANUARY, FEBRUARY):
        ingest_month(fresh, month)
    changed = fresh.declared()
    model = changed.use_case / "model.py"
    model.write_text(model.read_text().replace("HistGradientBoostingRegressor", "HistGradientBoostingClassifier"))

    with pytest.raises(SpecError, match=r"model.py:estimator returned a Pipeline for a regression target"):
        register_candidate(changed, FEBRUARY, "run")


def test_outcomes_that_are_no_numbers_are_refused_in_words(fresh: Place) -> None:
    changed = fresh.declared()
    data = changed.use_case / "data.py"
    data.write_text(data.read_text().replace('["ride", "minutes"]].reset', '["ride", "minutes"]].astype(str).reset'))

    with pytest.raises(DataRejectedError, match=r"Outcomes of 2013-01: they are object, not numbers in 'minutes'"):
        monitor.record_outcomes(changed.spec(), changed.stores(), JANUARY, origin=origin("record_outcomes"))


def test_a_candidate_that_serves_one_group_worse_is_refused_with_groups_sizes_and_numbers(fresh: Place) -> None:
    limits = {"primary": "rmse", "minimum_rows": 300}
    strict = [{"measure": "mean_error_difference", "maximum": 1.0, "minimum_rows": 100}]
    changed = fresh.declared(gate={**limits, "fairness": strict})
    data = changed.use_case / "data.py"
    unseen = '"minutes": minutes + 10 * np.array([each == "south" for each in _quarters]) + '
    text = data.read_text().replace('"minutes": minutes + ', unseen)
    text = text.replace('"quarter": [random.choice', '"quarter": (_quarters := [random.choice')
    data.write_text(text.replace("for each in line],", "for each in line]),"))
    for month in (JANUARY, FEBRUARY):
        ingest_month(changed, month)
    declaration = tasks.declare_gate(changed, FEBRUARY, "run")
    run_id = fitted(changed, declaration)
    evaluation = tasks.evaluate_model(changed, FEBRUARY, "run", run_id, declaration)

    _, verdict = gate.decide_gate(
        changed.stores(), evaluation=evaluation, declaration=declaration, origin=origin("decide_gate", "run")
    )

    assert not verdict.passed
    (reason,) = verdict.reasons
    assert reason.startswith("Fairness by quarter: mean_error_difference ")
    assert "is above the maximum 1.0000 (interval " in reason
    assert " of south (" in reason
    assert " of north (" in reason
    assert "mean error -" in reason


def fitted(place: Place, declaration: str) -> str:
    return train.train_model(
        place.spec(),
        place.stores(),
        FEBRUARY,
        parameters={},
        declaration=declaration,
        origin=origin("train_model", "run"),
    )


def test_a_segment_with_smaller_errors_by_a_model_of_its_own_gets_one_up_to_the_decision_to_retrain(
    fresh: Place,
) -> None:
    """Heavy rain costs time on line C alone, and no model sees the line: the parent spreads that over all three."""
    gate = {"primary": "rmse", "baselines": ["dummy"], "minimum_rows": 300}
    place = fresh.declared(
        segments={"column": "line", "minimum_rows": 40}, bootstrap={"resamples": 100, "block": "hour"}, gate=gate
    )
    data, model = place.use_case / "data.py", place.use_case / "model.py"
    data.write_text(data.read_text().replace("ROWS = 700", "ROWS = 1500"))
    model.write_text(model.read_text().replace('("words", words, ["line"])', '("words", "drop", ["line"])'))
    bend(place, m2013_03={"slower": 20.0})
    for month in (JANUARY, FEBRUARY, MARCH):
        ingest_month(place, month)
    spec, stores, about = place.spec(), place.stores(), {"through": FEBRUARY, "run": "run"}

    about["declaration"] = tasks.declare_gate(place, **about)
    parent = tasks.train_model(place, **about)
    planned = tasks.plan_segments(place, **about, run_id=parent)
    decided = [tasks.train_segment(place, **about, segment=each, index=i) for i, each in enumerate(planned)]
    whole = tasks.assemble_model(place, **about, run_id=parent, decided=decided)
    evaluation = tasks.evaluate_model(place, FEBRUARY, "run", whole, about["declaration"])
    verdict = tasks.decide_gate(place, "run", evaluation, about["declaration"])
    version = tasks.register_model(place, "run", whole, verdict)
    stores.ledger.propose_traffic(MODEL, {version: 100}, settled=True, expected_generation=0)
    predicted = stores.tables.read(score.score(spec, stores, MARCH, origin=origin("score_batch")))
    *_, decision = (
        tasks.record_outcomes(place, MARCH, "march"),
        performance := tasks.measure_performance(place, MARCH, "march"),
        drift := tasks.detect_drift(place, MARCH, "march"),
        tasks.decide_retrain(place, MARCH, "march", performance, drift),
    )

    plan = stores.ledger.get(planned[0]["plan"]).payload["segments"]
    assert [(each["rare"], each["blocks"] >= 20) for each in plan] == [(None, True)] * 3
    found = {each["segment"]: each for each in (stores.ledger.get(record).payload for record in decided)}
    assert {value: each["answered_by"] for value, each in found.items()} == {"A": "A", "B": "B", "C": "C"}
    rmse = {name: interval["value"] for name, interval in found["C"]["scores"].items()}
    assert rmse["child"] < 0.8 * rmse["parent"]
    assert found["C"]["reason"].startswith("Better than the parent: rmse is smaller by +")
    judged_whole = Evaluation.from_json(stores.ledger.get(evaluation).payload)
    assert judged_whole.against("parent", "rmse").low > 0
    assert [each.answered_by for each in judged_whole.segments if each.difference.low > 0] == ["A", "B", "C"]
    assert "Better than its own parent: rmse 3.9" in stores.ledger.get(verdict).payload["summary"]
    stored = stores.registry.load_model(f"models:/{MODEL}/{version}")
    rows = pd.DataFrame({"distance": [10.0, 10.0], "rain": [9.0, 9.0], "line": ["C", "Z"]})[stored.feature_names_in_]
    assert list(stored.answered_by(rows)) == ["C", "parent"]
    assert stored.predict(rows)[1] == stored.parent.predict(rows)[1] != stored.predict(rows)[0]
    rides = stores.tables.read(stores.tables.uri(MODEL, Table.FEATURES), partitions=[MARCH])
    assert list(predicted["answered_by"]) == list(rides["line"])
    measured = stores.ledger.get(performance).payload
    slices = {(each["column"], each["value"]): each["score"]["value"] for each in measured["slices"]}
    assert slices["answered_by", "C"] == slices["line", "C"] > 15  # the month is 20 minutes slower
    assert "prediction" in {each["column"] for each in stores.ledger.get(drift).payload["columns"]}
    assert (decision["retrain"], decision["trigger"]) == (True, "performance")


def test_predictions_are_finite_for_what_training_never_saw(world: tuple[Place, str]) -> None:
    model = world[0].stores().registry.load_model(f"models:/{MODEL}/1")

    strange = pd.DataFrame({"distance": [np.nan, 1e9], "rain": [-1.0, np.nan], "line": ["Z", "A"]})

    assert np.isfinite(model.predict(strange[list(model.feature_names_in_)])).all()

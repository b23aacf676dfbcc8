"""Months after a model went into service: performance, drift and the decision to train again, on real stores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from mlops_provider.cli import replay_table
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import Environment, Kind, Table
from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.exceptions import ConfigurationError, MissingPartitionError, StoreUnavailableError
from mlops_provider.serving import feedback
from mlops_provider.steps import monitor
from mlops_provider.stores.predictions import SegmentWriter
from support.parcels import DECLARED, Parcels, origin


@pytest.fixture(scope="module")
def in_service(tmp_path_factory: pytest.TempPathFactory) -> Parcels:
    """Version 1, trained on January and gated on February, serves from March on; not to be changed."""
    made = Parcels(tmp_path_factory.mktemp("in_service"))
    made.build("2013-01", "2013-02")
    version = made.train("2013-02")
    assert version == "1"
    made.serve(version)
    return made


@pytest.fixture
def parcels(in_service: Parcels, tmp_path: Path) -> Parcels:
    """A copy of it to change."""
    return in_service.copied(tmp_path / "copy")


@pytest.fixture
def unserved(tmp_path: Path) -> Parcels:
    """The use case before its first model."""
    return Parcels(tmp_path / "unserved")


def lived(parcels: Parcels, *months: str) -> list[dict[str, object]]:
    """Build, score and watch each month in turn; give its retrain decision."""
    decisions = []
    for month in months:
        parcels.build(month)
        parcels.score(month)
        decisions.append(parcels.watch(month)[2])
    return decisions


def test_before_the_first_model_a_month_is_recorded_as_not_served(unserved: Parcels) -> None:
    unserved.build("2013-01")

    performance, drift, decision = unserved.watch("2013-01")

    assert unserved.payload(performance)["reason"] == "No model served this month: it has no predictions."
    assert unserved.payload(performance)["metrics"] == {}
    assert unserved.payload(drift)["alarm"] is False
    (reason,) = decision.pop("reasons")
    assert reason.startswith("No champion yet, and 1 of 2 months of data")
    assert decision == {"retrain": False, "trigger": "none", "cause": None, "through": "2013-01"}


def test_the_second_month_asks_for_the_first_model(unserved: Parcels) -> None:
    for month in ("2013-01", "2013-02"):
        unserved.build(month)
        *_, decision = unserved.watch(month)

    assert decision["retrain"] is True
    assert decision["cause"] == "parcels-first_model-2013-02"
    assert decision["through"] == "2013-02"


def test_performance_is_measured_on_the_rows_whose_outcome_is_known(parcels: Parcels) -> None:
    parcels.build("2013-03")
    parcels.score("2013-03")

    found = parcels.payload(parcels.watch("2013-03")[0])

    assert (found["predicted"], found["rows"], found["coverage"]) == (800, 760, 0.95)
    score = Interval.from_json(found["metrics"]["roc_auc"])
    assert 0.6 < score.low < score.value < score.high
    assert {each["value"] for each in found["slices"]} == {"north", "south"}
    assert list(found["versions"]) == [found["version"]] == ["1"]
    assert Interval.from_json(found["expected"]["roc_auc"]).value > 0.6


def test_a_month_whose_labels_are_not_there_says_so(parcels: Parcels) -> None:
    parcels.build("2013-03")
    parcels.score("2013-03")

    record = monitor.measure_performance(parcels.spec, parcels.stores, "2013-03", origin=origin("measure_performance"))

    assert parcels.payload(record)["reason"] == "The outcomes of this month are not known yet."


def test_a_month_with_one_class_has_no_score_and_a_reason(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"outcomes": "one class"})
    (decision,) = lived(parcels, "2013-03")

    found = parcels.stores.ledger.latest(Kind.PERFORMANCE, "parcels")
    assert found is not None
    assert "both 0 and 1 are needed" in found.payload["reason"]
    assert "Performance in 2013-03 is unknown: too few labels." in decision["reasons"]


def test_an_ordinary_month_raises_no_alarm_and_starts_nothing(parcels: Parcels) -> None:
    (decision,) = lived(parcels, "2013-03")

    drift = parcels.stores.ledger.latest(Kind.DRIFT, "parcels")
    assert drift is not None
    assert drift.payload["alarm"] is False
    assert drift.payload["reference"]["partitions"] == ["2013-01"]
    assert decision["retrain"] is False
    assert decision["cause"] is None


def test_a_column_that_moved_raises_an_alarm_and_a_seasonal_one_warns(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"farther": 1.5, "heavier": 6.0})
    lived(parcels, "2013-03")

    drift = parcels.stores.ledger.latest(Kind.DRIFT, "parcels")
    assert drift is not None
    assert drift.payload["alarm"] is True
    assert {"distance", "weight"} <= set(drift.payload["drifted"])
    assert any(warning.startswith("weight: ") for warning in drift.payload["warnings"])
    assert {each["column"] for each in drift.payload["columns"]} == {"weight", "distance", "depot", "prediction"}


def test_the_report_of_a_month_holds_the_numbers_of_its_verdict(parcels: Parcels) -> None:
    lived(parcels, "2013-03")

    drift = parcels.stores.ledger.latest(Kind.DRIFT, "parcels")
    assert drift is not None
    page = parcels.stores.reports.read(drift.payload["report"]).decode()
    for column in drift.payload["columns"]:
        assert f"{column['score']:.6f}".rstrip("0") in page


def test_a_retry_adds_no_record_and_no_snapshot(parcels: Parcels, tmp_path: Path) -> None:
    parcels.build("2013-03")
    parcels.score("2013-03")

    first = parcels.watch("2013-03", tmp_path / "workspace", run="a")
    again = parcels.watch("2013-03", tmp_path / "workspace", run="a")
    parcels.watch("2013-03", tmp_path / "workspace", run="b")

    assert first == again
    (snapshot,) = (tmp_path / "workspace").glob("*/snapshots/*.json")
    content = json.loads(snapshot.read_text())
    assert content["timestamp"] == "2013-04-06T00:00:00+00:00"
    assert content["metadata"] == {"partition": "2013-03", "version": "1"}
    assert snapshot.stem == parcels.payload(first[1])["snapshot"]


def test_a_cleared_run_over_mended_outcomes_measures_and_decides_anew(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"reversed": True})
    parcels.build("2013-03")
    parcels.score("2013-03")
    first = parcels.watch("2013-03", run="a")
    parcels.bend()

    mended = parcels.watch("2013-03", run="a")
    again = parcels.watch("2013-03", run="a")

    assert mended == again
    assert mended[0] != first[0], "performance reads the outcomes"
    assert mended[1] == first[1], "drift does not"
    was, is_now = (Interval.from_json(parcels.payload(one[0])["metrics"]["roc_auc"]) for one in (first, mended))
    assert was.high < 0.5 < is_now.low
    assert "worse" in " ".join(first[2]["reasons"])
    assert "as expected" in " ".join(mended[2]["reasons"])
    assert len(parcels.stores.ledger.history(Kind.RETRAIN, "parcels")) == 2


def test_a_month_whose_features_were_restored_is_compared_anew_and_counts_like_that(parcels: Parcels) -> None:
    parcels.build("2013-03")
    parcels.score("2013-03")
    parcels.watch("2013-03", run="a")
    uri = parcels.stores.tables.uri("parcels", Table.FEATURES)
    good = parcels.stores.tables.version(uri)
    parcels.bend(m2013_03={"farther": 1.5})
    parcels.build("2013-03")
    bad = parcels.watch("2013-03", run="a")
    DeltaTable(uri).restore(good)

    restored = parcels.watch("2013-03", run="a")

    records = parcels.stores.ledger.history(Kind.DRIFT, "parcels")
    assert [record.payload["alarm"] for record in records] == [False, True, False]
    assert [record.record_id for record in records[1:]] == [bad[1], restored[1]]
    assert parcels.payload(parcels.stores.ledger.latest(Kind.RETRAIN, "parcels").record_id)["drift"] == restored[1]


def test_another_month_changes_nothing_for_a_retry(parcels: Parcels) -> None:
    parcels.build("2013-03")
    parcels.score("2013-03")
    first = parcels.watch("2013-03", run="a")
    parcels.build("2013-04")
    parcels.score("2013-04")
    parcels.watch("2013-04", run="b")

    assert parcels.watch("2013-03", run="a") == first


def test_a_month_decided_again_is_not_held_up_by_its_own_decision(parcels: Parcels) -> None:
    parcels.declare(retrain={**DECLARED["retrain"], "windows_needed": 1})
    parcels.bend(m2013_03={"farther": 1.5})
    (first,) = lived(parcels, "2013-03")

    again = parcels.watch("2013-03", run="cleared later")[2]

    assert first["retrain"] is True
    assert again == first


def test_the_workspace_comes_from_the_environment_if_none_is_named(
    parcels: Parcels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(Environment.EVIDENTLY_WORKSPACE, str(tmp_path / "workspace"))

    lived(parcels, "2013-03")

    assert len(list((tmp_path / "workspace").glob("*/snapshots/*.json"))) == 1


def test_a_workspace_that_cannot_be_written_is_retried(parcels: Parcels, tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("not a folder")
    parcels.build("2013-03")
    parcels.score("2013-03")

    with pytest.raises(StoreUnavailableError, match="MLOPS_EVIDENTLY_WORKSPACE"):
        parcels.watch("2013-03", tmp_path / "workspace")

    assert parcels.stores.ledger.history(Kind.DRIFT, "parcels") == []


def test_drift_in_two_of_three_months_retrains_with_a_cause_of_its_own(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"farther": 1.5}, m2013_05={"farther": 1.5})

    march, april, may = lived(parcels, "2013-03", "2013-04", "2013-05")

    assert (march["retrain"], april["retrain"]) == (False, False)
    assert (may["retrain"], may["trigger"]) == (True, "drift")
    assert may["cause"] == "parcels-drift-2013-05"
    assert may["through"] == "2013-05"


def test_after_a_retraining_there_is_a_cooldown_in_data_time(parcels: Parcels) -> None:
    parcels.declare(retrain={**DECLARED["retrain"], "cooldown_days": 40})
    parcels.bend(m2013_03={"farther": 1.5}, m2013_04={"farther": 1.5}, m2013_05={"farther": 1.5})

    _, april, may = lived(parcels, "2013-03", "2013-04", "2013-05")

    assert april["retrain"] is True
    assert may["retrain"] is False
    assert "the last retraining was 31 days ago, cooldown 40 days" in may["reasons"][0]


def test_lost_performance_retrains(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"reversed": True}, m2013_04={"reversed": True})

    _, april = lived(parcels, "2013-03", "2013-04")

    assert april["trigger"] == "performance"
    assert april["cause"] == "parcels-performance-2013-04"


def test_a_month_with_few_labels_says_nothing_about_performance(parcels: Parcels) -> None:
    parcels.bend(m2013_03={"reversed": True}, m2013_04={"reversed": True, "rows": 90})

    _, april = lived(parcels, "2013-03", "2013-04")

    assert april["retrain"] is False
    assert "Performance in 2013-04 is unknown: too few labels." in april["reasons"]


def test_months_of_an_earlier_version_do_not_count_against_a_new_one(parcels: Parcels) -> None:
    parcels.declare(gate={**DECLARED["gate"], "mode": "dry_run"})
    parcels.bend(m2013_03={"farther": 1.5}, m2013_04={"farther": 1.5})
    lived(parcels, "2013-03")
    second = parcels.train("2013-03", "second")
    assert second == "2"
    parcels.serve(second)

    (april,) = lived(parcels, "2013-04")

    assert april["retrain"] is False
    decided = parcels.stores.ledger.latest(Kind.RETRAIN, "parcels")
    assert decided is not None
    assert [window["partition"] for window in decided.payload["windows"]] == ["2013-04"]
    assert decided.payload["version"] == "2"


def test_a_feature_that_the_serving_version_never_saw_is_not_compared(parcels: Parcels) -> None:
    parcels.declare(features={**DECLARED["features"], "numeric": ["distance"]}, monitoring={"limit": 0.5})
    parcels.build("2013-03")
    parcels.declare()
    parcels.score("2013-03")
    parcels.declare(features={**DECLARED["features"], "numeric": ["distance"]}, monitoring={"limit": 0.5})

    found = parcels.payload(parcels.watch("2013-03")[1])

    assert {each["column"] for each in found["columns"]} == {"distance", "depot", "prediction"}


@pytest.mark.parametrize("step", [monitor.record_outcomes, monitor.measure_performance, monitor.detect_drift])
def test_a_run_without_a_partition_key_is_told_so(in_service: Parcels, step: object) -> None:
    with pytest.raises(MissingPartitionError, match="no partition key"):
        step(in_service.spec, in_service.stores, "", origin=origin("any"))  # type: ignore[operator]


def test_sealed_predictions_are_delivered_once_and_recorded(parcels: Parcels, tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path / "spool" / "parcels", "replica")
    writer.append([{"partition": "2013-03", "parcel": 1, "prediction": 0.25, "version": "1"}])
    writer.close()

    first, second = (
        monitor.deliver_predictions(
            parcels.spec, parcels.stores, spool_dir=str(tmp_path / "spool"), origin=origin("deliver_predictions")
        )
        for _ in range(2)
    )

    assert (first, second) == ({"rows": 1, "segments": 1}, {"rows": 0, "segments": 0})
    (record,) = parcels.stores.ledger.history(Kind.DELIVERY, "parcels")
    assert record.payload["rows"] == 1


def test_a_spool_that_nobody_wrote_to_has_nothing_to_deliver(in_service: Parcels, tmp_path: Path) -> None:
    found = monitor.deliver_predictions(
        in_service.spec, in_service.stores, spool_dir=str(tmp_path / "none"), origin=origin("deliver_predictions")
    )

    assert found == {"rows": 0, "segments": 0}


def test_delivering_from_nowhere_is_a_setting_to_make(in_service: Parcels) -> None:
    with pytest.raises(ConfigurationError, match="MLOPS_SPOOL_DIR"):
        monitor.deliver_predictions(in_service.spec, in_service.stores, origin=origin("deliver_predictions"))


def told(parcels: Parcels, *outcomes: dict[str, Any], spool: Path, secrets: str = "") -> None:
    """Let callers tell a model server outcomes, and deliver what it logged."""
    pseudonyms = Pseudonyms.of(parcels.spec.serving.pseudonymise, secrets)
    body = json.dumps({"outcomes": outcomes}).encode()
    writer = SegmentWriter(spool / "parcels", "server")
    writer.append_lines(feedback.lines(body, "application/json", parcels.spec.serving_policy, pseudonyms)[0])
    writer.close()
    monitor.deliver_predictions(
        parcels.spec, parcels.stores, spool_dir=str(spool), origin=origin("deliver_predictions", "run")
    )


def performances(parcels: Parcels, month: str) -> list[Mapping[str, Any]]:
    found = parcels.stores.ledger.history(Kind.PERFORMANCE, "parcels")
    return [record.payload for record in found if record.payload["partition"] == month]


def test_outcomes_told_three_days_late_change_the_month_they_belong_to(parcels: Parcels, tmp_path: Path) -> None:
    lived(parcels, "2013-03")
    lost = range(201303 * 10_000, 201303 * 10_000 + 800, 20)
    late = [{"keys": {"parcel": key}, "outcome": 1, "observed_at": "2013-04-09T00:00:00Z"} for key in lost]

    told(parcels, *late, spool=tmp_path / "spool")
    told(parcels, *late, spool=tmp_path / "spool")  # telling it again changes nothing
    lived(parcels, "2013-04")

    before, after = performances(parcels, "2013-03")
    assert (before["rows"], before["coverage"]) == (760, 0.95)
    assert (after["rows"], after["coverage"]) == (800, 1.0)
    assert after["metrics"]["roc_auc"] != before["metrics"]["roc_auc"]
    assert "median_delay_hours" not in before
    assert 24 * 22 < after["median_delay_hours"] < 24 * 40
    (april,) = performances(parcels, "2013-04")
    assert april["rows"] == 760
    assert "median_delay_hours" not in april
    parcels.watch("2013-04", run="again")
    assert len(performances(parcels, "2013-03")) == 2


def test_a_told_outcome_wins_over_the_source_and_the_newest_over_older_ones(parcels: Parcels, tmp_path: Path) -> None:
    parcels.build("2013-03")
    parcels.score("2013-03")
    key = {"keys": {"parcel": 201303 * 10_000 + 1}}

    told(
        parcels,
        {**key, "outcome": 1, "observed_at": "2013-04-08T00:00:00Z"},
        {**key, "outcome": 0, "observed_at": "2013-04-07T00:00:00Z"},
        spool=tmp_path / "spool",
    )
    parcels.watch("2013-03")

    outcomes = parcels.stores.tables.read(parcels.stores.tables.uri("parcels", Table.OUTCOMES), partitions=["2013-03"])
    assert len(outcomes) == 760
    assert outcomes.set_index("parcel")["late"][201303 * 10_000 + 1] == 1
    assert outcomes["late"].dtype == "int64"


def answers(parcels: Parcels, spool: Path, count: int, **more: Any) -> None:
    """What a server logged of requests of one row each."""
    writer = SegmentWriter(spool / "parcels", "server")
    writer.append(
        [
            {
                "request_id": f"request-{number}", "row": 0, "model": "parcels", "version": "1", "generation": 1,
                "arm": "split" if number < count - 1 else "shadow", "answered_at": "2013-03-10T12:00:00+00:00",
                "latency_ms": 1.0, "prediction": (number % 10) / 10, "features": {"weight": 1.0}, **more,
            }
            for number in range(count)
        ]
    )  # fmt: skip
    writer.close()


def test_what_the_server_answered_is_measured_by_request(parcels: Parcels, tmp_path: Path) -> None:
    lived(parcels, "2013-03")
    answers(parcels, tmp_path / "spool", 41)
    known = [
        {"request_id": f"request-{number}", "outcome": int(number % 10 > 4), "observed_at": "2013-03-13T12:00:00Z"}
        for number in range(30)
    ]

    told(parcels, *known, {"request_id": "nobody-asked", "outcome": 1}, spool=tmp_path / "spool")
    lived(parcels, "2013-04")

    online = performances(parcels, "2013-03")[-1]["online"]
    assert (online["answered"], online["rows"], online["coverage"]) == (40, 30, 0.75)
    assert online["median_delay_hours"] == 72.0
    assert online["metrics"]["roc_auc"]["value"] == 1.0
    assert online["versions"]["1"]["rows"] == 30
    assert "online" not in performances(parcels, "2013-04")[-1]
    row = replay_table.row_of(parcels.stores.ledger, "parcels", "2013-03", metric="roc_auc")
    assert "75.0% of 40 of the server's answers, 72.0 h after it." in row.decision


def test_pseudonyms_are_joined_also_after_the_secret_was_changed(
    parcels: Parcels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcels.declare(serving={"pseudonymise": ["parcel"]})
    lost = 201303 * 10_000
    new = "2027 another-secret-of-some-length"
    monkeypatch.setenv(Environment.PSEUDONYM_KEYS, f"{new}, 2026 a-secret-of-some-length")
    parcels.build("2013-03")
    parcels.score("2013-03")

    for key, secrets in ((lost, "2026 a-secret-of-some-length"), (lost + 20, new)):
        told(parcels, {"keys": {"parcel": key}, "outcome": 1}, spool=tmp_path / "spool", secrets=secrets)
    parcels.watch("2013-03")

    assert performances(parcels, "2013-03")[-1]["rows"] == 762
    log = parcels.stores.tables.read(parcels.stores.tables.uri("parcels", Table.OUTCOME_LOG))
    assert not log["keys"].str.contains(str(lost)[:6]).any()
    assert sorted(log["keys"].str.extract(r'\["(\d+):')[0]) == ["2026", "2027"]
    monkeypatch.delenv(Environment.PSEUDONYM_KEYS)
    with pytest.raises(ConfigurationError, match="no secret to make them with: set MLOPS_PSEUDONYM_KEYS"):
        parcels.watch("2013-03", run="without")

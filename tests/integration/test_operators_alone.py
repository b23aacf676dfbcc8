"""Gate, drift check, validation and ledger in somebody's own DAG: tables in files, in a database, on S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import great_expectations as gx
import pandas as pd
import pytest
from deltalake import write_deltalake

from compat import material
from mlops_provider.operators.ledger import RecordDecisionOperator
from mlops_provider.operators.tables import (
    DetectTableDriftOperator,
    FileTable,
    GatePredictionsOperator,
    SqlTable,
    ValidateTableOperator,
)
from mlops_provider.stores.ledger import Ledger
from support.contexts import run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tables as Parquet, in SQLite, and the expectations."""
    folder = tmp_path_factory.mktemp("material") / "data"
    material.write(folder)
    return folder


@pytest.fixture(scope="module")
def s3(data: Path) -> Iterator[str]:
    with material.s3(data.parent, "compat") as address:
        yield address


@pytest.fixture(autouse=True)
def warehouse(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": f"{data}/warehouse.db"}))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The ledger behind the default connection."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER", json.dumps({"conn_type": "mlops_ledger", "host": url}))
    return Ledger(url)


def gate(data: Path, **changes: Any) -> GatePredictionsOperator:
    about: dict[str, Any] = {
        "candidate": f"{data}/candidate.parquet",
        "champion": f"{data}/champion.parquet",
        "labels": f"{data}/labels.parquet",
        "keys": ["flight"],
        "target": "late",
        "primary": "roc_auc",
        "limits": [{"metric": "roc_auc", "minimum": 0.6}],
        "resamples": 200,
        "model": "flights",
    }
    return GatePredictionsOperator(task_id="gate", **(about | changes))


def drift(data: Path, **changes: Any) -> DetectTableDriftOperator:
    about: dict[str, Any] = {
        "reference": f"{data}/labels.parquet",
        "current": f"{data}/current.parquet",
        "numeric": ["distance"],
        "categorical": ["carrier"],
        "model": "flights",
    }
    return DetectTableDriftOperator(task_id="drift", **(about | changes))


def validation(data: Path, **changes: Any) -> ValidateTableOperator:
    about: dict[str, Any] = {
        "table": f"{data}/current.parquet",
        "expectations": f"{data}/expectations.yaml",
        "model": "flights",
    }
    return ValidateTableOperator(task_id="validate", **(about | changes))


def test_a_better_candidate_passes_with_its_numbers_and_without_a_record(data: Path) -> None:
    ended = run(gate(data))

    assert ended.state == "success"
    assert ended.result["passed"]
    assert ended.result["record"] is None
    assert ended.result["rows"] == material.ROWS
    assert ended.result["differences"]["roc_auc"]["low"] > 0
    assert (
        ended.result["metrics"]["candidate"]["roc_auc"]["value"]
        > ended.result["metrics"]["champion"]["roc_auc"]["value"]
    )
    assert json.loads(json.dumps(ended.result)) == ended.result


def test_a_rejection_skips_what_follows_and_leaves_its_verdict(data: Path) -> None:
    swapped = {"candidate": f"{data}/champion.parquet", "champion": f"{data}/candidate.parquet"}

    ended = run(gate(data, **swapped))

    assert ended.state == "stopped"
    assert not ended.result["passed"]
    assert "Worse than the champion: roc_auc" in ended.result["reasons"][-1]


def test_a_rejection_may_fail_the_task_and_leaves_its_verdict_too(data: Path) -> None:
    ended = run(gate(data, limits=[{"metric": "brier", "maximum": 0.01}], fail_on_reject=True))

    assert ended.state == "failed"
    assert "above the maximum 0.0100" in ended.error
    assert ended.result["reasons"]


def test_only_the_columns_named_are_read(data: Path) -> None:
    tables = run(gate(data)).result["tables"]

    assert {name: table["columns"] for name, table in tables.items()} == {
        "candidate": ["flight", "prediction"],
        "champion": ["flight", "prediction"],
        "labels": ["flight", "late"],
    }


def test_files_sql_delta_and_s3_give_the_same_verdict(
    data: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BUCKETS", material.aws_connection(s3))
    names = ("candidate", "champion", "labels")
    for name in names:
        write_deltalake(str(tmp_path / name), pd.read_parquet(data / f"{name}.parquet"))
    write_deltalake(str(tmp_path / "candidate"), pd.read_parquet(data / "champion.parquet"), mode="overwrite")

    by = {
        "files": {name: f"{data}/{name}.parquet" for name in names},
        "sql": {name: SqlTable(f"SELECT * FROM {name}", conn_id="warehouse") for name in names},
        "delta": {name: FileTable(f"{tmp_path}/{name}", version=0) for name in names},
        "s3": {name: FileTable(f"s3://compat/{name}.parquet", conn_id="buckets") for name in names},
    }
    verdicts = {kind: run(gate(data, **tables)).result for kind, tables in by.items()}

    expected = verdicts["files"]
    for kind, verdict in verdicts.items():
        assert verdict["metrics"] == expected["metrics"], kind
        assert verdict["differences"] == expected["differences"], kind
    assert verdicts["delta"]["tables"]["candidate"]["version"] == 0
    assert verdicts["sql"]["tables"]["labels"]["query"] == "SELECT * FROM labels"
    assert "compat" not in json.dumps(verdicts["s3"]["tables"]).replace("s3://compat/", "")


def test_one_table_with_both_predictions_needs_no_keys(data: Path, tmp_path: Path) -> None:
    tables = material.tables()
    tables["labels"].assign(new=tables["candidate"]["prediction"], old=tables["champion"]["prediction"]).to_parquet(
        tmp_path / "all.parquet"
    )

    ended = run(
        gate(
            data,
            candidate=f"{tmp_path}/all.parquet",
            champion=None,
            labels=None,
            keys=[],
            prediction="new",
            champion_prediction="old",
        )
    )

    assert ended.result["metrics"] == run(gate(data)).result["metrics"]


def test_numbers_are_judged_by_the_metrics_of_numbers_and_blocks_drawn_as_a_whole(data: Path, tmp_path: Path) -> None:
    flights = material.tables()["labels"]
    noise = flights["flight"] % 7 - 3
    flights.assign(prediction=flights["distance"] + noise, day=flights["flight"] % 50).to_parquet(
        tmp_path / "new.parquet"
    )
    flights.assign(prediction=flights["distance"] + 9 * noise).to_parquet(tmp_path / "old.parquet")

    verdict = run(
        gate(
            data,
            candidate=f"{tmp_path}/new.parquet",
            champion=f"{tmp_path}/old.parquet",
            labels=None,
            target="distance",
            primary="rmse",
            limits=[{"metric": "mae", "maximum": 3.0}],
            block="day",
        )
    ).result

    assert verdict["passed"], verdict["summary"]
    assert (verdict["task"], verdict["block"], verdict["blocks"]) == ("regression", "day", 50)
    assert verdict["metrics"]["candidate"]["rmse"]["value"] == pytest.approx(2.0, abs=0.01)


def test_columns_may_be_called_otherwise_in_a_table(data: Path) -> None:
    renamed = SqlTable(
        "SELECT flight AS id, prediction AS p FROM champion",
        conn_id="warehouse",
        columns={"flight": "id", "prediction": "p"},
    )

    assert run(gate(data, champion=renamed)).result["metrics"] == run(gate(data)).result["metrics"]


def test_rows_that_a_table_lacks_are_left_out_and_counted(data: Path, tmp_path: Path) -> None:
    labels = material.tables()["labels"].astype({"late": "float64"}).head(3000)
    labels.loc[:99, "late"] = None
    labels.to_parquet(tmp_path / "labels.parquet")

    verdict = run(gate(data, labels=f"{tmp_path}/labels.parquet")).result

    assert verdict["rows"] == 2900
    assert verdict["warnings"][:2] == [
        "1,000 of 4,000 rows are not in the table of labels and were left out.",
        "100 of 3,000 rows have no label and were left out.",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidate": "nowhere.parquet"}, "There is no table at nowhere.parquet"),
        ({"target": "delay"}, "has no column 'delay'; it has"),
        (
            {"labels": SqlTable("SELECT 1 AS flight, 1 AS late FROM labels", conn_id="warehouse")},
            "repeat a key (flight)",
        ),
        ({"keys": []}, "name the columns in keys"),
        ({"primary": "auc"}, "expected one of roc_auc"),
        ({"limits": [{"metric": "roc_auc"}]}, "expected a minimum, a maximum or both"),
        ({"limits": [{"metric": "rmse", "maximum": 1.0}]}, "roc_auc, rmse are not about one kind of target"),
        ({"resamples": 5}, "resamples: Input should be greater than or equal to 100"),
        ({"champion": SqlTable("SELECT 1", conn_id="nowhere")}, "Airflow has no connection 'nowhere'"),
        ({"champion": SqlTable("SELEKT 1", conn_id="warehouse")}, "syntax error"),
        ({"champion": FileTable("s3://b/t.parquet", conn_id="nowhere")}, "Airflow has no connection 'nowhere'"),
        ({"champion": FileTable("gs://b/t.parquet")}, "is a path, file:// or s3://"),
        ({"champion": 7}, "got int"),
        ({"ledger_conn_id": "other_ledger"}, "Airflow has no connection 'other_ledger'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_said_in_words(
    data: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    ended = run(gate(data, **changes))

    assert ended.state == ("retried" if "syntax" in said else "failed"), ended
    assert said in ended.error


def test_a_connection_that_speaks_no_sql_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEB", json.dumps({"conn_type": "http", "host": "127.0.0.1"}))
    monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps({"conn_type": "oddbase"}))

    web, odd = (run(gate(data, champion=SqlTable("SELECT 1", conn_id=name))) for name in ("web", "odd"))

    assert "'http', which speaks no SQL" in web.error
    assert "'oddbase', which no installed provider knows" in odd.error


def test_a_database_that_is_away_is_tried_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "sqlite", "host": f"{data}/no/folder.db"}))

    assert run(gate(data, labels=SqlTable("SELECT 1", conn_id="warehouse"))).state == "retried"


def test_a_retry_gets_the_recorded_verdict_and_a_cleared_run_over_other_rows_its_own(
    data: Path, tmp_path: Path, ledger: Ledger
) -> None:
    candidate = tmp_path / "candidate.parquet"
    candidate.write_bytes((data / "candidate.parquet").read_bytes())
    first, again = (run(gate(data, candidate=str(candidate))) for _ in range(2))
    candidate.write_bytes((data / "champion.parquet").read_bytes())

    cleared = run(gate(data, candidate=str(candidate)))

    assert again == first
    assert (cleared.state, cleared.result["passed"]) == ("stopped", False)
    assert [record.kind for record in ledger.records()] == ["predictions_gate"] * 2
    assert ledger.get(first.result["record"]).actor == "ada"
    assert ledger.verify() is None


def test_a_verdict_of_its_own_opens_no_traffic(data: Path, ledger: Ledger) -> None:
    run(gate(data))

    assert ledger.history("gate", "flights") == []
    assert ledger.traffic("flights") is None


def test_drift_is_told_with_its_page(data: Path, tmp_path: Path) -> None:
    ended = run(drift(data, reports_uri=str(tmp_path)))

    assert ended.state == "success"
    assert ended.result["alarm"]
    assert ended.result["drifted"] == ["distance"]
    assert "distance" in (tmp_path / ended.result["report"]).read_text()


def test_a_page_lies_on_s3_if_that_is_the_place(data: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"reports_uri": "s3://compat/pages", "aws_conn_id": "buckets"}

    unknown = run(validation(data, **place))
    monkeypatch.setenv("AIRFLOW_CONN_BUCKETS", material.aws_connection(s3))
    ended = run(validation(data, **place))

    assert "Airflow has no connection 'buckets'. Create it" in unknown.error
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1", **material.KEYS)
    page = client.get_object(Bucket="compat", Key=f"pages/{ended.result['report']}")["Body"].read().decode()
    assert "distances are possible" in page


def test_equal_tables_raise_no_alarm_and_a_query_does_as_well(data: Path) -> None:
    query = SqlTable("SELECT distance, carrier, late FROM labels", conn_id="warehouse")

    ended = run(drift(data, current=query, fail_on_alarm=True))

    assert (ended.state, ended.result["alarm"], ended.result["report"]) == ("success", False, None)


def test_an_alarm_may_fail_the_task(data: Path) -> None:
    ended = run(drift(data, fail_on_alarm=True))

    assert (ended.state, ended.result["alarm"]) == ("failed", True)
    assert "Drift alarm. 1 of 2 columns drifted" in ended.error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"numeric": [], "categorical": []}, "Which columns shall be compared?"),
        ({"numeric": ["carrier"]}, "columns that are no numbers: carrier"),
        ({"alarm_share": 2.0}, "alarm_share"),
        ({"current": SqlTable("SELECT * FROM labels LIMIT 0", conn_id="warehouse")}, "current table has no rows"),
    ],
    ids=["none", "text", "share", "empty"],
)
def test_what_is_wrong_with_a_drift_check_is_said_in_words(data: Path, changes: dict[str, Any], said: str) -> None:
    ended = run(drift(data, **changes))

    assert ended.state == "failed"
    assert said in ended.error


def test_a_table_that_meets_its_expectations_passes(data: Path, tmp_path: Path) -> None:
    ended = run(validation(data, reports_uri=str(tmp_path)))

    assert (ended.state, ended.result["passed"], ended.result["rows"]) == ("success", True, material.ROWS)
    assert ended.result["tables"]["table"]["columns"] == ["carrier", "distance"]
    assert "rows in quarantine" not in (tmp_path / ended.result["report"]).read_text()


def test_a_table_that_does_not_fails_the_task_or_stops_what_follows(data: Path) -> None:
    query = SqlTable("SELECT carrier, -distance AS distance FROM labels", conn_id="warehouse")

    failed, stopped = (run(validation(data, table=query, fail_on_reject=each)) for each in (True, False))

    assert (failed.state, stopped.state) == ("failed", "stopped")
    assert "distances are possible" in failed.error
    assert not stopped.result["passed"]


def test_a_suite_that_great_expectations_saved_is_checked_too(data: Path, tmp_path: Path) -> None:
    suite = gx.ExpectationSuite(
        name="saved",
        expectations=[
            gx.expectations.ExpectColumnValuesToBeInSet(column="carrier", value_set=["AA", "B6"], severity="warning"),
            gx.expectations.ExpectTableRowCountToBeBetween(min_value=1, severity="critical"),
        ],
    )
    (tmp_path / "suite.json").write_text(json.dumps(suite.to_json_dict()))

    ended = run(validation(data, expectations=f"{tmp_path}/suite.json"))

    assert ended.state == "success"
    assert ended.result["failing"] == int((material.tables()["current"]["carrier"] == "UA").sum())
    assert [outcome["severity"] for outcome in ended.result["outcomes"]] == ["quarantine", "block"]


def test_a_missing_column_and_a_wrong_suite_are_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text('{"expectations": [{"type": "expect_nothing", "kwargs": {}}]}')
    (tmp_path / "list.json").write_text("[]")

    missing = run(validation(data, table=SqlTable("SELECT carrier FROM labels", conn_id="warehouse")))
    unknown, no_suite, no_file = (
        run(validation(data, expectations=f"{tmp_path}/{name}.json")) for name in ("no", "list", "nothing")
    )

    assert "there is no column distance" in missing.error
    assert "expectation 1, expect_nothing" in unknown.error
    assert "expected a suite of Great Expectations" in no_suite.error
    assert "There is no expectations file" in no_file.error


def test_a_decision_is_kept_once_per_task_and_content(ledger: Ledger) -> None:
    def record(discount: float, run_id: str) -> Any:
        operator = RecordDecisionOperator(task_id="record", decision={"discount": discount}, model="prices")
        return run(operator, run_id=run_id).result

    first, again, cleared, other = (
        record(discount, name) for discount, name in ((0.1, "run-1"), (0.1, "run-1"), (0.2, "run-1"), (0.2, "run-2"))
    )

    assert first == again
    assert len({first, cleared, other}) == 3
    assert [found.payload["decision"]["discount"] for found in ledger.history("decision", "prices")] == [0.1, 0.2, 0.2]


def test_a_decision_without_a_ledger_or_json_is_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    no_json = run(RecordDecisionOperator(task_id="record", decision={"at": object()}, model="prices"))
    monkeypatch.delenv("AIRFLOW_CONN_MLOPS_LEDGER")
    nowhere = run(RecordDecisionOperator(task_id="record", decision={}, model="prices"))

    assert (no_json.state, nowhere.state) == ("failed", "failed")
    assert "must be JSON" in no_json.error
    assert "Airflow has no connection 'mlops_ledger'" in nowhere.error

"""Five ways to start a DAG, each against a running Airflow."""

from __future__ import annotations

from mlops_provider.core.names import Kind, Table
from support.stack import MODEL, RunningStack, wait_until


def rows_of(stack: RunningStack, table: Table, partition: str) -> int:
    uri = stack.stores.tables.uri(MODEL, table)
    return len(stack.stores.tables.read(uri, partitions=[partition])) if stack.stores.tables.exists(uri) else 0


def test_a_backfill_lands_past_months_and_each_is_scored_on_its_event(stack: RunningStack) -> None:
    body = {
        "dag_id": "flight_delays_ingest",
        "from_date": "2013-01-01T00:00:00Z",
        "to_date": "2013-02-01T00:00:00Z",
        "max_active_runs": 2,
        "reprocess_behavior": "completed",  # other tests may have ingested them
    }

    stack.api.post("/backfills", json=body).raise_for_status()

    both = {"2013-01": "success", "2013-02": "success"}

    def backfilled() -> dict[str, str]:
        runs = stack.runs("flight_delays_ingest")
        return {run["partition_key"]: run["state"] for run in runs if run["run_type"] == "backfill"}

    wait_until(lambda: backfilled() == both, "both months")
    assert rows_of(stack, Table.FEATURES, "2013-01") > 20_000

    # The fourth way: each month's asset event started the scoring of that very month.
    def scored() -> dict[str, str]:
        return {run["partition_key"]: run["state"] for run in stack.runs("flight_delays_score")}

    wait_until(lambda: both.items() <= scored().items(), "scoring of both months")
    assert {run["run_type"] for run in stack.runs("flight_delays_score")} == {"asset_triggered"}


def test_params_as_the_web_form_sends_them_train_and_deploy_a_model(stack: RunningStack) -> None:
    for month in ("2013-01", "2013-02"):
        stack.ingested(month)
    stack.at_rest()
    before = stack.stores.ledger.traffic(MODEL)

    started = stack.start(
        "flight_delays_train", "from-the-form", conf={"through": "2013-02", "trials": 1, "reason": "demand"}
    )

    assert started.status_code == 200, started.text
    assert stack.finished("flight_delays_train", "from-the-form") == "success"
    gates = stack.stores.ledger.history(Kind.GATE, MODEL)
    [verdict] = [record for record in gates if "/from-the-form/" in (record.key or "")]
    registered = stack.stores.ledger.latest(Kind.REGISTRATION, MODEL)
    if before is not None and not verdict.payload["passed"]:
        # An earlier test's version serves, and was trained on these very months: it need not be beaten.
        assert registered is None or registered.payload["gate"] != verdict.record_id
        return
    assert registered is not None
    assert registered.payload["gate"] == verdict.record_id
    version = registered.payload["version"]
    assert stack.finished("flight_delays_deploy", f"{MODEL}-version-{version}") == "success"
    traffic = stack.stores.ledger.traffic(MODEL)
    assert (traffic.split, traffic.settled) == ({version: 100}, True)


def test_a_param_outside_its_rule_is_refused_with_the_rule(stack: RunningStack) -> None:
    refused = stack.start("flight_delays_train", "wrong", conf={"through": "next month"})

    assert refused.status_code == 400
    assert "through" in refused.text


def test_the_same_run_id_twice_by_rest_starts_one_run(stack: RunningStack) -> None:
    first = stack.start("flight_delays_ingest", "march", partition_key="2013-03")
    second = stack.start("flight_delays_ingest", "march", partition_key="2013-03")

    assert (first.status_code, second.status_code) == (200, 409)
    assert stack.finished("flight_delays_ingest", "march") == "success"
    assert [run["dag_run_id"] for run in stack.runs("flight_delays_ingest")].count("march") == 1


def test_an_asset_event_by_rest_scores_the_month_it_names(stack: RunningStack) -> None:
    assets = stack.api.get("/assets", params={"name_pattern": f"{MODEL}/features"}).json()["assets"]
    [asset] = [asset for asset in assets if asset["name"] == f"{MODEL}/features"]

    before = [run["partition_key"] for run in stack.runs("flight_delays_score")].count("2013-02")
    event = {"asset_id": asset["id"], "partition_key": "2013-02", "extra": {"from": "another team"}}
    stack.api.post("/assets/events", json=event).raise_for_status()

    def started() -> bool:
        runs = [run for run in stack.runs("flight_delays_score") if run["partition_key"] == "2013-02"]
        return len(runs) > before and all(run["state"] == "success" for run in runs)

    wait_until(started, "a second scoring of 2013-02")
    assert rows_of(stack, Table.PREDICTIONS, "2013-02") > 20_000


def test_the_calendar_starts_the_month_that_ended(stack: RunningStack) -> None:
    stack.api.patch("/dags/flight_delays_calendar", json={"is_paused": False}).raise_for_status()

    wait_until(lambda: bool(stack.runs("flight_delays_calendar")), "a scheduled run")
    [run] = stack.runs("flight_delays_calendar")
    assert (run["run_type"], run["partition_key"]) == ("scheduled", "2013-01")
    assert stack.finished("flight_delays_calendar", run["dag_run_id"]) == "success"


def test_a_run_without_a_partition_key_fails_and_says_what_to_do(stack: RunningStack) -> None:
    stack.start("flight_delays_ingest", "keyless").raise_for_status()

    assert stack.finished("flight_delays_ingest", "keyless") == "failed"
    first = "wait_for_source" if stack.s3_url else "land_data"
    task = stack.tasks("flight_delays_ingest", "keyless")[first]
    assert (task["state"], task["try_number"]) == ("failed", 1)
    assert "partition key such as 2013-01" in stack.log("flight_delays_ingest", "keyless", first)

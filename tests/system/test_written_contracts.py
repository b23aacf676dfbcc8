"""``docs/contracts.md`` against what a running stack has left in its stores: each says what the other does."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import httpx
import pytest
from deltalake import DeltaTable
from mlflow import MlflowClient

from mlops_provider.cli.home import PORTS
from mlops_provider.core.names import ALONE, Kind, Table, Tag
from mlops_provider.spec import load_spec
from support import contracts
from support.stack import MODEL, ROOT, RunningStack

MONTHS = ("2013-01", "2013-02", "2013-03")
RARE = {
    Kind.PACKAGE,
    Kind.APPROVAL_REQUEST,
    Kind.APPROVAL,
    Kind.INCIDENT,
    Kind.TOLD,
    Kind.OVERRIDE,
    Kind.ABORT,
    Kind.DRILL,
    Kind.ROLLBACK,
    Kind.IMPORT,
    Kind.COPY,
    Kind.SEGMENTS,
    Kind.SEGMENT,
    *ALONE,
}
"""Kinds that ordinary months of this model do not bring."""
MODELS = {file.parent.name for file in (ROOT / "include").glob("*/model.yaml")}


@pytest.fixture(scope="module")
def lived(stack: RunningStack) -> RunningStack:
    """The stack after months that were ingested, trained on, served and watched; by earlier tests or now."""
    for month in MONTHS[:2]:
        stack.ingested(month)
    stack.at_rest()
    if stack.stores.ledger.latest(Kind.PROMOTION, MODEL) is None:
        form = {"through": MONTHS[1], "trials": 1, "reason": "demand"}
        stack.start("flight_delays_train", "contracts", conf=form).raise_for_status()
        assert stack.finished("flight_delays_train", "contracts") == "success"
        registered = stack.stores.ledger.latest(Kind.REGISTRATION, MODEL)
        assert registered is not None
        deployment = f"{MODEL}-version-{registered.payload['version']}"
        assert stack.finished("flight_delays_deploy", deployment) == "success"
    stack.ingested(MONTHS[2])
    stack.start("flight_delays_monitor", "contracts", partition_key=MONTHS[2]).raise_for_status()
    assert stack.finished("flight_delays_monitor", "contracts") == "success"
    return stack


def test_every_record_holds_what_the_page_says_of_its_kind(lived: RunningStack) -> None:
    documented = {
        contracts.words(row["kind"])[0]: contracts.payload(row["payload"]) for row in contracts.rows("Ledger", "kind")
    }

    records = lived.stores.ledger.records()
    differences = defaultdict(set)
    for record in records:
        if record.kind in documented:
            differences[record.kind].update(documented[record.kind].differences(set(record.payload)))

    assert {kind: found for kind, found in differences.items() if found} == {}
    assert {record.kind for record in records} <= documented.keys()
    assert set(documented) - {record.kind for record in records} <= RARE
    assert set(documented) == set(Kind)


def test_keys_of_records_are_built_as_the_page_says(lived: RunningStack) -> None:
    measured = {Kind.PERFORMANCE, Kind.DRIFT, Kind.RETRAIN, Kind.DECLARATION, Kind.SEARCH, Kind.EVALUATION, Kind.GATE}
    for record in lived.stores.ledger.records():
        if record.kind in measured:
            assert record.key
            origin, number, digest = record.key.rsplit(":", 2)
            assert len(origin.split("/")) == 4
            assert number.isdecimal()
            assert len(digest) == 64


def test_every_table_has_the_columns_of_the_page(lived: RunningStack) -> None:
    spec = load_spec(ROOT / "include/flight_delays/model.yaml")
    tables = lived.stores.tables

    def columns(table: str) -> set[str]:
        handle = DeltaTable(tables.uri(MODEL, table), storage_options=tables.storage_options or None)
        return {field.name for field in handle.schema().fields} - {"partition"}

    means = {"keys": set(spec.keys), "event_time": {spec.event_time}, "protected": set(spec.protected)}
    phrases = {
        "what `land` returns": columns(Table.RAW),
        "those of `raw`": columns(Table.RAW),
        "the features of `model.yaml`": set(spec.feature_columns),
        "the target": {spec.target.name},
    }
    of_segments = {"answered_by"}  # this model has none
    rows = contracts.rows("Tables", "table")
    for row in rows:
        table = contracts.words(row["table"])[0].removesuffix("_<version>")
        if table in (Table.REFERENCE, Table.OUTCOME_LOG):
            continue  # only a promoted version has the one, only a model of which callers told outcomes the other
        cell, expected = row["columns beside `partition`"], set[str]()
        if table == Table.PREDICTION_LOG:
            cell = cell.replace("`keys`", "")  # no request named them
        for phrase, stands_for in phrases.items():
            if phrase in cell:
                cell, expected = cell.replace(phrase, ""), expected | stands_for
        expected = expected.union(*(means.get(word, {word}) for word in contracts.words(cell)))
        if table == Table.QUARANTINE and not tables.exists(tables.uri(MODEL, table)):
            continue  # no month had a bad row
        assert columns(table) == expected - of_segments, table
    assert {contracts.words(row["table"])[0].removesuffix("_<version>") for row in rows} == set(Table)


def test_runs_and_versions_carry_the_tags_of_the_page(lived: RunningStack) -> None:
    rows = contracts.rows("MLflow", "tag")
    documented = {
        on: {word for row in rows if on in row["on"].split(", ") for word in contracts.words(row["tag"])}
        for on in ("run", "version")
    }
    address = lived.stores.registry.tracking_uri
    client = MlflowClient(address, address)
    experiment = client.get_experiment_by_name(MODEL)
    runs = client.search_runs([experiment.experiment_id])
    versions = lived.stores.registry.versions(MODEL)

    assert runs
    assert versions
    for run in runs:
        assert {tag for tag in run.data.tags if tag.startswith("mlops.")} == documented["run"] - {Tag.PROMOTED_FROM}
    for version in versions:
        assert set(version.tags) | {Tag.REJECTED, Tag.ROLLED_BACK, Tag.PROMOTED_FROM} == documented["version"]
    assert set(lived.stores.registry.aliases(MODEL)) <= {"challenger", "champion", "previous"}


def test_assets_and_their_events_are_those_of_the_page(lived: RunningStack) -> None:
    rows = {
        contracts.words(row["asset"])[0].replace("<model>", MODEL): row for row in contracts.rows("Assets", "asset")
    }
    assets = {asset["name"]: asset["id"] for asset in lived.api.get("/assets").raise_for_status().json()["assets"]}

    assert {name for name in assets if name.startswith(f"{MODEL}/")} == set(rows)
    for name, row in rows.items():
        events = lived.api.get("/assets/events", params={"asset_id": assets[name]}).raise_for_status().json()
        ours: list[dict[str, Any]] = [event for event in events["asset_events"] if event["source_task_id"]]
        assert ours, name
        for event in ours:
            assert set(event["extra"]) == set(contracts.words(row["`extra`"]))
            assert bool(event["partition_key"]) == (row["partition key"] != "none")


def test_dags_and_what_they_take_are_those_of_the_page(lived: RunningStack) -> None:
    documented = {
        contracts.words(row["DAG"])[0].replace("<model>", model): row
        for row in contracts.rows("DAGs", "DAG")
        for model in MODELS
    }
    dags = {dag["dag_id"] for dag in lived.api.get("/dags").raise_for_status().json()["dags"]}
    of_the_tests = {file.stem for file in (ROOT / "tests/system/dags").glob("*.py")}

    assert {dag for dag in dags - of_the_tests if dag.rpartition("_")[0] in MODELS} == set(documented)
    for dag_id, row in documented.items():
        params = lived.api.get(f"/dags/{dag_id}/details").raise_for_status().json()["params"]
        assert set(params or {}) == set(contracts.words(row["takes"])), dag_id


def test_connections_and_ports_are_those_of_the_page(lived: RunningStack) -> None:
    connections = {contracts.words(row["connection ID"])[0] for row in contracts.rows("Connections", "connection ID")}
    ports = {contracts.words(row["variable"])[0]: row for row in contracts.rows("Ports", "variable")}

    found = lived.api.get("/connections").raise_for_status().json()["connections"]
    assert {(each["connection_id"], each["conn_type"]) for each in found} == {(name, name) for name in connections}
    assert {name: contracts.words(row["default"]) for name, row in ports.items()} == {
        name: [str(default)] for name, default in PORTS.values()
    }
    for variable in ports:
        if variable == PORTS["s3"][0] and not lived.s3_url:
            continue  # nobody listens there
        address = f"http://127.0.0.1:{lived.environment[variable]}/"
        assert httpx.get(address, timeout=30, trust_env=False).status_code < 500, variable

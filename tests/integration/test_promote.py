"""A version moves from staging to prod: the same bytes, the same evidence, nothing trained anew."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset

from mlops_provider.adapters.scorers import OnnxScorer
from mlops_provider.cli.main import main
from mlops_provider.core.evidence import GENESIS, canonical, digest, original
from mlops_provider.core.names import Alias, Environment, Kind, Tag
from mlops_provider.exceptions import EvidenceError, RolloutRefusedError
from mlops_provider.operators.promote import PromoteModelOperator
from mlops_provider.steps import audit, human_approval, models, monitor, package
from mlops_provider.steps.approval import refuse_outdated, require_gate
from mlops_provider.steps.promote import promote
from mlops_provider.steps.provenance import provenance
from mlops_provider.steps.score import score
from mlops_provider.stores.suite import Stores
from support.stack import ROOT
from support.tiny import (
    ANY_MODEL_PASSES,
    FEBRUARY,
    JANUARY,
    MARCH,
    MODEL,
    Place,
    environments,
    ingest_months,
    origin,
    register_candidate,
)


@dataclass
class Pair:
    """Two environments with one source of data."""

    staging: Place
    prod: Place

    def promote(self, version: str = "1") -> str:
        return promote(
            MODEL,
            version,
            source=self.staging.stores(),
            destination=self.prod.stores(),
            source_name="staging",
            destination_name="prod",
            origin=origin("promote_model"),
        )


def settle(stores: Stores, version: str) -> None:
    now = stores.ledger.traffic(MODEL)
    stores.ledger.propose_traffic(MODEL, {version: 100}, settled=True, expected_generation=now.generation if now else 0)
    stores.registry.set_alias(MODEL, Alias.CHAMPION, version)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """Staging with version 1 in service and version 2, which met it, registered; made once, copied for each test."""
    folder = tmp_path_factory.mktemp("staging")
    shutil.copy(empty_mlflow, folder)
    place = Place(folder).declared(gate=ANY_MODEL_PASSES)
    place.source.mkdir()
    ingest_months(place, JANUARY, FEBRUARY)
    assert register_candidate(place, FEBRUARY, "train-1") == "1"
    settle(place.stores(), "1")
    ingest_months(place, MARCH)
    assert register_candidate(place, MARCH, "train-2") == "2"
    return folder


@pytest.fixture
def pair(tmp_path: Path, registered: Path, empty_mlflow: Path) -> Pair:
    return Pair(*environments(Place(registered), tmp_path, empty_mlflow))


def test_a_promoted_version_has_the_same_bytes_and_the_same_evidence(pair: Pair) -> None:
    staging, prod = pair.staging.stores(), pair.prod.stores()
    prod.ledger.append(Kind.LANDING, MODEL, {"rows": 1})

    assert pair.promote() == "1"

    assert prod.registry.model_digest(f"models:/{MODEL}/1") == staging.registry.model_digest(f"models:/{MODEL}/1")
    imported = prod.ledger.history(Kind.IMPORT, MODEL)
    assert [original(record).kind for record in imported] == [
        Kind.DECLARATION,
        Kind.TRAINING,
        Kind.EVALUATION,
        Kind.GATE,
        Kind.REGISTRATION,
    ]
    for record in imported:
        assert prod.ledger.get(record.record_id) == staging.ledger.get(record.record_id)
    before, after = staging.registry.version(MODEL, "1"), prod.registry.version(MODEL, "1")
    assert after.tags[Tag.GATE_RECORD] == before.tags[Tag.GATE_RECORD] == imported[3].record_id
    assert after.tags[Tag.PROMOTED_FROM] == f"staging/{MODEL}/1"
    assert prod.registry.aliases(MODEL) == {Alias.CHALLENGER: "1"}
    assert prod.registry.logged(after.run_id).metrics == staging.registry.logged(before.run_id).metrics
    assert audit.verify(prod).versions == 1
    assert len(prod.ledger.history(Kind.TRAINING, MODEL)) == 0
    (there,), (here,) = (each.ledger.history(Kind.REGISTRATION, MODEL)[:1] for each in (staging, prod))
    assert here.payload["scorer"] == there.payload["scorer"]
    assert here.payload["scorer"]["form"] == "onnx"
    assert isinstance(models.scorer(prod.registry, prod.ledger, MODEL, "1"), OnnxScorer)


def test_a_version_that_a_person_rejected_goes_nowhere(pair: Pair) -> None:
    staging, mine = pair.staging.stores(), origin("approve_version")
    request = human_approval.ask(MODEL, staging, "1", policy="always", origin=mine).request
    assert request is not None
    human_approval.answer(staging, request, approved=False, reason="unfair", by="grace", approvers=(), origin=mine)

    with pytest.raises(RolloutRefusedError, match="was rejected by grace on .*: unfair"):
        pair.promote()

    assert pair.prod.stores().ledger.history(Kind.IMPORT, MODEL) == []


def test_promoting_twice_changes_nothing(pair: Pair) -> None:
    pair.promote()
    prod = pair.prod.stores()
    head, versions = prod.ledger.head(), prod.registry.versions(MODEL)

    assert pair.promote() == "1"

    assert prod.ledger.head() == head
    assert prod.registry.versions(MODEL) == versions


def test_a_promoted_version_serves_scores_and_is_monitored_where_it_arrived(pair: Pair) -> None:
    prod = pair.prod.stores()
    pair.promote()
    assert require_gate(prod.ledger, MODEL, "1").payload["passed"]
    refuse_outdated(prod.ledger, MODEL, "1", None)
    settle(prod, "1")
    spec = pair.prod.spec()
    shutil.copytree(pair.staging.source, pair.prod.source, dirs_exist_ok=True)
    ingest_months(pair.prod, JANUARY, FEBRUARY, MARCH)

    predictions = score(spec, prod, MARCH, origin=origin("score_batch"))
    drift = monitor.detect_drift(spec, prod, MARCH, origin=origin("detect_drift"))

    assert len(prod.tables.read(predictions)) == 600
    compared = prod.ledger.get(drift).payload
    assert compared["columns"]
    assert compared["reference"]["table"].startswith(str(pair.prod.folder))
    assert provenance(prod.ledger, MODEL, "1").trained_on == (JANUARY,)


def test_a_promoted_version_is_packaged_with_the_evidence_of_both_environments(pair: Pair, tmp_path: Path) -> None:
    pair.promote()

    written = package.package(pair.prod.stores(), MODEL, "1", tmp_path / "package", say=print)

    kinds = [path.stem.partition("-")[2] for path in sorted((tmp_path / "package" / "evidence").iterdir())]
    assert kinds == ["declaration", "training", "evaluation", "gate", "registration", "registration"]
    assert written.registration.payload["promoted"]["from"] == "staging"
    assert "rain" in [column.name for column in written.scorer().columns]


def test_a_version_without_a_passing_gate_is_refused(pair: Pair) -> None:
    staging = pair.staging.stores()
    run_id = staging.registry.version(MODEL, "1").run_id
    verdict = staging.ledger.append(Kind.GATE, MODEL, {"passed": False, "run_id": run_id})
    staging.ledger.append(
        Kind.REGISTRATION, MODEL, {"version": "1", "run_id": run_id, "gate": verdict.record_id}, key="by hand"
    )

    with pytest.raises(RolloutRefusedError, match="no passing verdict"):
        pair.promote()

    assert pair.prod.stores().ledger.records() == []
    assert pair.prod.stores().registry.versions(MODEL) == []


def test_a_version_that_was_rolled_back_is_refused(pair: Pair) -> None:
    pair.staging.stores().ledger.append(Kind.ROLLBACK, MODEL, {"refused": ["1"], "reason": "too late"})

    with pytest.raises(RolloutRefusedError, match="was rolled back"):
        pair.promote()


def forge(ledger_file: Path, kind: str, **changes: object) -> None:
    """Change the payload of a record, as somebody with the database's password could."""
    with sqlite3.connect(ledger_file) as connection:
        connection.execute("DROP TRIGGER mlops_records_no_update")
        select = "SELECT seq, payload FROM mlops_records WHERE kind = ? ORDER BY seq"
        seq, text = connection.execute(select, (kind,)).fetchone()
        payload = json.dumps(json.loads(text) | changes, sort_keys=True, separators=(",", ":"))
        connection.execute("UPDATE mlops_records SET payload = ? WHERE seq = ?", (payload, seq))
    connection.close()


def test_tampered_evidence_is_refused(pair: Pair, tmp_path: Path) -> None:
    forge(tmp_path / "ledger.db", "evaluation", rows=1_000_000)

    with pytest.raises(EvidenceError, match=r"breaks at record \d+ \(evaluation of bus_delays"):
        pair.promote()

    assert pair.prod.stores().ledger.records() == []


def test_changed_files_are_refused(pair: Pair) -> None:
    staging = pair.staging.stores()
    source = Path(staging.registry.version(MODEL, "1").source.removeprefix("file://"))
    file = source / "requirements.txt"
    before = file.read_bytes()
    file.write_bytes(before + b"evil\n")
    try:
        with pytest.raises(EvidenceError, match="changed in the artifact store"):
            pair.promote()
    finally:
        file.write_bytes(before)
    assert pair.prod.stores().ledger.records() == []


def test_the_audit_finds_imported_evidence_that_was_changed(pair: Pair) -> None:
    """Even if whoever changed it also mended the whole chain after it."""
    pair.promote()
    prod = pair.prod.stores()
    records = prod.ledger.records()
    with sqlite3.connect(pair.prod.folder / "ledger.db") as connection:
        connection.execute("DROP TRIGGER mlops_records_no_update")
        previous = GENESIS
        for record in records:
            fields = record.as_json()
            if record.kind == Kind.IMPORT and original(record).kind == Kind.EVALUATION:
                fields["payload"]["record"]["payload"]["rows"] = 1_000_000
            names = ("seq", "record_id", "kind", "model", "key", "payload", "actor", "as_of", "recorded_at")
            new = digest(previous, **{name: fields[name] for name in names})
            connection.execute(
                "UPDATE mlops_records SET payload = ?, previous = ?, digest = ? WHERE seq = ?",
                (canonical(fields["payload"]), previous, new, record.seq),
            )
            previous = new
    connection.close()

    assert prod.ledger.verify() is None
    with pytest.raises(EvidenceError, match="was changed on its way"):
        audit.verify(Stores(ledger_url=prod.ledger_url))


def test_a_version_replaces_what_it_met_in_its_own_environment_and_nothing_else(pair: Pair) -> None:
    prod = pair.prod.stores()
    # Promoted in the other order, so the numbers differ from those of staging.
    assert (pair.promote("2"), pair.promote("1")) == ("1", "2")

    refuse_outdated(prod.ledger, MODEL, "1", "2")
    with pytest.raises(RolloutRefusedError, match="never compared with version 1, which serves here"):
        refuse_outdated(prod.ledger, MODEL, "2", "1")


def test_environments_must_not_share_a_ledger(pair: Pair) -> None:
    pair.prod = Place(pair.prod.folder, ledger_url=pair.staging.ledger_url)

    with pytest.raises(RolloutRefusedError, match="one ledger"):
        pair.promote()


def test_the_command_takes_environments_by_name(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(pair.prod.folder)
    for variable in Environment:
        monkeypatch.delenv(variable, raising=False)
    staging, prod = pair.staging.stores(), pair.prod.stores()
    monkeypatch.setenv("MLOPS_ENVIRONMENT", "staging")
    monkeypatch.setenv("MLOPS_TABLES_URI", str(staging.tables_uri))
    monkeypatch.setenv("MLOPS_REGISTRY_URI", str(staging.registry_uri))
    monkeypatch.setenv("MLOPS_LEDGER_URL", str(staging.ledger_url))
    words = ("promote", f"{MODEL}@1", "--from", "staging", "--to", "prod")

    assert main(words) == 1
    assert "set MLOPS_PROD_TABLES_URI, MLOPS_PROD_REGISTRY_URI, MLOPS_PROD_LEDGER_URL" in capsys.readouterr().err

    monkeypatch.setenv("MLOPS_PROD_TABLES_URI", str(prod.tables_uri))
    monkeypatch.setenv("MLOPS_PROD_REGISTRY_URI", str(prod.registry_uri))
    monkeypatch.setenv("MLOPS_PROD_LEDGER_URL", str(prod.ledger_url))
    assert main(words) == 0
    assert f"{MODEL} version 1 of staging is version 1 of prod, not deployed." in capsys.readouterr().out
    assert main(("promote", MODEL, "--from", "staging", "--to", "prod")) == 1
    assert "such as flight_delays@3" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["variables", "connections"])
def test_the_operator_promotes_between_environments(by: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in Environment:
        monkeypatch.delenv(variable, raising=False)
    staging, prod = pair.staging.stores(), pair.prod.stores()
    monkeypatch.setenv("MLOPS_ENVIRONMENT", "staging")
    monkeypatch.setenv("MLOPS_TABLES_URI", str(staging.tables_uri))
    monkeypatch.setenv("MLOPS_REGISTRY_URI", str(staging.registry_uri))
    monkeypatch.setenv("MLOPS_LEDGER_URL", str(staging.ledger_url))
    for name, address in (
        ("tables_uri", prod.tables_uri),
        ("registry_uri", prod.registry_uri),
        ("ledger_url", prod.ledger_url),
    ):
        connection = {"conn_type": f"mlops_{name.split('_')[0]}", "host": address}
        if by == "variables":
            monkeypatch.setenv(f"MLOPS_PROD_{name.upper()}", str(address))
        else:
            monkeypatch.setenv(f"AIRFLOW_CONN_MLOPS_{name.split('_')[0].upper()}__PROD", json.dumps(connection))
    version = Asset("bus_delays/version")
    promote = PromoteModelOperator(
        task_id="promote_model", model=MODEL, version="1", source="staging", destination="prod", outlets=[version]
    )
    event = SimpleNamespace(extra={})
    ti = SimpleNamespace(dag_id="promote", run_id="once", task_id="promote_model", map_index=-1)
    context = {"ti": ti, "dag_run": SimpleNamespace(triggering_user_name="ada"), "outlet_events": {version: event}}

    assert promote.execute(context) == "1"  # type: ignore[arg-type]

    assert event.extra == {"model": MODEL, "version": "1"}
    [registration] = prod.ledger.history(Kind.REGISTRATION, MODEL)
    assert registration.actor == "ada"


def test_a_version_is_not_promoted_into_a_copy_that_has_it(pair: Pair, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "mlflow.db", pair.prod.folder)
    staging, prod = pair.staging.stores(), pair.prod.stores()
    prod.ledger.restore(staging.ledger.records())
    before = prod.ledger.head(), prod.registry.versions(MODEL)

    assert pair.promote("2") == "2"

    assert (prod.ledger.head(), prod.registry.versions(MODEL)) == before
    assert len(before[1]) == 2


def test_a_copy_of_the_ledger_without_its_registry_is_told(pair: Pair, tmp_path: Path) -> None:
    prod = pair.prod.stores()
    prod.ledger.restore(pair.staging.stores().ledger.records())

    with pytest.raises(EvidenceError, match=r"in the ledger of prod, .*, but its MLflow has no version 2 of"):
        pair.promote("2")

    shutil.copy(tmp_path / "mlflow.db", tmp_path / "another.db")
    pair.prod = Place(pair.prod.folder, registry_uri=f"sqlite:///{tmp_path}/another.db")
    pair.prod.stores().registry.tag_version(MODEL, "2", {Tag.LEDGER_HEAD: "another"})
    with pytest.raises(EvidenceError, match=r"in its MLflow version 2 is run .* with the tag .* another, and the"):
        pair.promote("2")


def test_a_version_is_promoted_into_a_copy_that_was_made_while_it_was_trained(pair: Pair) -> None:
    staging, prod = pair.staging.stores(), pair.prod.stores()
    records = staging.ledger.records()
    declared = max(number for number, record in enumerate(records) if record.kind == Kind.DECLARATION)
    prod.ledger.restore(records[: declared + 1])

    assert (pair.promote("2"), pair.promote("2")) == ("1", "1")

    assert audit.verify(prod).versions == 1
    assert require_gate(prod.ledger, MODEL, "1") is not None


def test_the_example_of_the_page_is_a_dag() -> None:
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}

    exec(example.replace("}):\n", "}) as dag:\n"), found)

    assert found["dag"].task_ids == ["promote_model"]

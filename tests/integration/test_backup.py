"""A backup restored into an empty place: audit, lineage, scoring and rollback work there as they did before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import httpx
import pytest
from mlflow import MlflowClient

from mlops_provider.cli.main import main
from mlops_provider.core.names import Alias, Environment, Kind, Table
from mlops_provider.exceptions import ConfigurationError, EvidenceError
from mlops_provider.steps import audit, deploy, monitor
from mlops_provider.steps.backup import Places, backup, restore, verify
from mlops_provider.steps.provenance import provenance
from mlops_provider.steps.score import score
from mlops_provider.steps.traffic import champion
from mlops_provider.stores.predictions import SegmentWriter
from mlops_provider.stores.suite import Stores
from mlops_provider.targets import Server
from support.stack import free_port
from support.tiny import (
    ANY_MODEL_PASSES,
    FEBRUARY,
    JANUARY,
    MARCH,
    MODEL,
    Place,
    ingest_months,
    origin,
    register_candidate,
)


def places_of(place: Place) -> Places:
    stores = place.stores()
    return Places(stores, str(stores.registry_uri), place.folder / "spool")


def settle(stores: Stores, version: str) -> None:
    now = stores.ledger.traffic(MODEL)
    generation = now.generation if now else 0
    stores.ledger.propose_traffic(MODEL, {version: 100}, settled=True, expected_generation=generation)
    stores.registry.set_alias(MODEL, Alias.CHAMPION, version)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A backup of a place with two versions, predictions and undelivered segments; the place itself is gone."""
    folder = tmp_path_factory.mktemp("original")
    shutil.copy(empty_mlflow, folder)
    place = Place(folder).declared(gate=ANY_MODEL_PASSES)
    place.source.mkdir()
    ingest_months(place, JANUARY, FEBRUARY)
    register_candidate(place, FEBRUARY, "train-1")
    settle(place.stores(), "1")
    ingest_months(place, MARCH)
    register_candidate(place, MARCH, "train-2")
    settle(place.stores(), "2")
    writer = SegmentWriter(folder / "spool" / MODEL, "server")
    writer.append([{"request_id": "r", "row": 0, "model": MODEL, "version": "2", "prediction": 0.5}])
    writer.close()
    kept = tmp_path_factory.mktemp("backup") / "monday"
    backup(places_of(place), kept)
    place.stores().ledger.close()
    shutil.rmtree(folder)
    return kept


@pytest.fixture
def restored(kept: Path, tmp_path: Path) -> Place:
    """It, in a place with other addresses."""
    place = Place(tmp_path / "new")
    place.folder.mkdir()
    place.source.mkdir()
    restore(places_of(place), kept)
    return place


def test_after_a_restore_everything_works_as_before(restored: Place) -> None:
    stores, spec = restored.stores(), restored.spec()

    found = audit.verify(stores)
    assert found.versions == 2
    made = provenance(stores.ledger, MODEL, "2")
    assert made.trained_on == (JANUARY, FEBRUARY)
    # Its records name the tables at their former address; the version it was trained on is found here.
    assert not made.features.table.startswith(str(restored.folder))
    assert len(stores.tables.read(made.features, partitions=[JANUARY])) == 600

    scored = score(spec, stores, MARCH, origin=origin("score_batch", "after"))
    assert len(stores.tables.read(scored)) == 600
    drift = monitor.detect_drift(spec, stores, MARCH, origin=origin("detect_drift", "after"))
    assert stores.ledger.get(drift).payload["columns"]
    delivered = monitor.deliver_predictions(
        spec, stores, spool_dir=str(restored.folder / "spool"), origin=origin("deliver_predictions", "after")
    )
    assert delivered
    assert len(stores.tables.read(restored.table(Table.PREDICTION_LOG))) == 1

    target = Server("http://127.0.0.1:9", model=MODEL, ledger=stores.ledger)
    deploy.rollback(MODEL, stores, reason="try", target=target, origin=origin("rollback_model", "after"))
    assert champion(stores.ledger, MODEL) == "1"
    assert stores.registry.aliases(MODEL)[Alias.CHAMPION] == "1"
    ingest_months(restored, JANUARY, FEBRUARY, MARCH)
    assert register_candidate(restored.declared(gate=ANY_MODEL_PASSES), MARCH, "train-3") == "3"
    assert audit.verify(stores).versions == 3


@pytest.mark.slow
def test_what_was_kept_from_sqlite_is_restored_into_postgres_and_kept_from_there(
    kept: Path, tmp_path: Path, postgres: Callable[[str], str]
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    place = Place(folder, registry_uri=postgres("mlflow"), ledger_url=postgres("ledger"))
    places = replace(places_of(place), artifacts=str(folder / "artifacts"))

    restore(places, kept)

    stores = place.stores()
    assert audit.verify(stores).versions == 2
    assert stores.registry.load_model(f"models:/{MODEL}/2").predict_proba is not None
    # Numbers go on where they were.
    run_id = stores.registry.ensure_run("another", "key", name="new", tags={})
    stores.registry.log(run_id, params={"a": 1}, metrics={"b": 2.0})
    backup(places, tmp_path / "again")
    assert (tmp_path / "again" / "ledger.jsonl").read_bytes() == (kept / "ledger.jsonl").read_bytes()
    stores.ledger.close()


def test_nothing_is_restored_into_a_place_that_is_in_use(restored: Place, kept: Path) -> None:
    before = restored.stores().ledger.head()

    with pytest.raises(ConfigurationError, match=r"the ledger .* has records; .* has files; .* MLflow's database has"):
        restore(places_of(restored), kept)

    assert restored.stores().ledger.head() == before


def test_a_backup_needs_a_folder_of_its_own(restored: Place, kept: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not empty"):
        backup(places_of(restored), kept)


@pytest.fixture
def copy(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "copy"))


def test_a_backup_that_was_changed_is_refused_with_the_file(copy: Path, tmp_path: Path) -> None:
    [file, *_] = sorted((copy / "tables").rglob("*.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    (copy / "tables" / "extra").touch()
    place = Place(tmp_path / "new")
    place.folder.mkdir()

    with pytest.raises(EvidenceError, match=r"not whole\.\ntables/extra was added\.\ntables/.*parquet was changed"):
        restore(places_of(place), copy)

    assert not (place.folder / "tables").exists()


def test_a_ledger_that_was_rewritten_is_refused_though_the_manifest_was_mended(copy: Path) -> None:
    import hashlib

    lines = (copy / "ledger.jsonl").read_text().splitlines()
    record = json.loads(lines[3])
    record["actor"] = "mallory"
    lines[3] = json.dumps(record)
    content = ("\n".join(lines) + "\n").encode()
    (copy / "ledger.jsonl").write_bytes(content)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["ledger.jsonl"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(EvidenceError, match="breaks at record 4"):
        verify(copy)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda manifest: None, ConfigurationError, "no backup, or one that was cut off"),
        (lambda manifest: {**manifest, "format": 2}, ConfigurationError, "has format 2; this package reads 1"),
    ],
)
def test_what_is_no_backup_is_refused_in_words(change, error, said, copy: Path) -> None:  # type: ignore[no-untyped-def]
    file = copy / "manifest.json"
    changed = change(json.loads(file.read_text()))
    file.unlink() if changed is None else file.write_text(json.dumps(changed))

    with pytest.raises(error, match=said):
        verify(copy)


def test_the_commands(
    restored: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = restored.stores()
    monkeypatch.chdir(restored.folder)

    def use(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        monkeypatch.setenv(Environment.TABLES_URI, str(folder / "tables"))
        monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{folder}/ledger.db")
        monkeypatch.setenv(Environment.REGISTRY_URI, f"sqlite:///{folder}/mlflow.db")
        monkeypatch.setenv(Environment.SPOOL_DIR, str(folder / "spool"))

    use(restored.folder)
    kept = str(tmp_path / "tuesday")
    assert main(("backup", kept)) == 0
    assert main(("backup", kept, "--verify")) == 0
    said = capsys.readouterr().out
    assert said.count("is whole: ") == 2
    assert f"{len(stores.ledger.records())} ledger records" in said
    assert main(("restore", kept)) == 1
    assert "Nothing was restored" in capsys.readouterr().err

    use(tmp_path / "third")
    assert main(("restore", kept)) == 0
    assert main(("audit", "verify")) == 0
    third = Stores.from_environment()
    assert third.ledger.records() == stores.ledger.records()
    # Twice moved: what the first place's records name is found in the third.
    assert len(third.tables.read(provenance(third.ledger, MODEL, "1").features, partitions=[JANUARY])) == 600

    monkeypatch.setenv(Environment.REGISTRY_URI, "http://127.0.0.1:9")
    assert main(("backup", str(tmp_path / "wednesday"))) == 1
    assert "--registry-database" in capsys.readouterr().err


def test_every_record_is_restored_as_it_was(kept: Path, restored: Place) -> None:
    records = [json.loads(line) for line in (kept / "ledger.jsonl").read_text().splitlines()]

    assert [record.as_json() for record in restored.stores().ledger.records()] == records
    assert {record["kind"] for record in records} >= {Kind.GATE, Kind.REGISTRATION, Kind.TRAFFIC}


@dataclass
class MLflowServer:
    """An MLflow server on an SQLite database, which hands files through."""

    folder: Path
    port: str = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def __enter__(self) -> Self:
        command = (
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port, "--workers", "1"),
            *("--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "files")),
        )
        with (self.folder / "mlflow.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).is_success:
                    return self
            except httpx.TransportError:
                assert self.process.poll() is None, (self.folder / "mlflow.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (self.folder / "mlflow.log").read_text()[-3000:]
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=60)


@pytest.mark.slow
def test_files_behind_mlflows_server_go_out_and_back_in_through_it(tmp_path: Path, empty_mlflow: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        shutil.copy(empty_mlflow, folder)
    with MLflowServer(folders[0]) as one:
        stores = Place(one.folder, registry_uri=one.url).stores()
        run_id = stores.registry.ensure_run(MODEL, "key", name="run", tags={"a": "b"})
        MlflowClient(one.url).log_text(run_id, "three rows", "facts/rows.txt")
        backup(Places(stores, one.database), tmp_path / "kept")

    with MLflowServer(folders[1]) as two:
        stores = Place(two.folder, registry_uri=two.url).stores()
        restore(Places(stores, two.database), tmp_path / "kept")

        assert stores.registry.ensure_run(MODEL, "key", name="run", tags={}) == run_id
        found = Path(MlflowClient(two.url).download_artifacts(run_id, "facts/rows.txt", str(tmp_path)))
        assert found.read_text() == "three rows"

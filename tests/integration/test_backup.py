"""A backup restored into an empty place: audit, lineage, scoring and rollback work there as they did before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import httpx
import pandas as pd
import pytest
from deltalake import DeltaTable, write_deltalake
from mlflow import MlflowClient

from mlops_provider.cli.main import main
from mlops_provider.core.chunks import Target
from mlops_provider.core.names import Alias, Environment, Kind, Table
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import ConfigurationError, EvidenceError, FileGoneError
from mlops_provider.steps import audit, monitor
from mlops_provider.steps.backup import Places, backup, restore, verify
from mlops_provider.steps.provenance import provenance
from mlops_provider.steps.rollback import rollback
from mlops_provider.steps.score import score
from mlops_provider.steps.traffic import champion
from mlops_provider.stores.archive import Archive
from mlops_provider.stores.predictions import SegmentWriter, deliver
from mlops_provider.stores.segments import ship_abandoned
from mlops_provider.stores.staging import Staging
from mlops_provider.stores.suite import Stores
from mlops_provider.targets import Server
from support.aws import Aws
from support.old_stores import old_ledger
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


def restored_to(folder: Path, kept: Path) -> Place:
    place = Place(folder)
    place.folder.mkdir()
    place.source.mkdir()
    restore(places_of(place), kept)
    return place


@pytest.fixture
def restored(kept: Path, tmp_path: Path) -> Place:
    """It, in a place with other addresses."""
    return restored_to(tmp_path / "new", kept)


@pytest.fixture(scope="module")
def standing(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The same, for tests that change nothing there."""
    return restored_to(tmp_path_factory.mktemp("standing") / "new", kept)


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
    rollback(MODEL, stores, reason="try", target=target, origin=origin("rollback_model", "after"))
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


def test_nothing_is_restored_into_a_place_that_is_in_use(standing: Place, kept: Path) -> None:
    before = standing.stores().ledger.head()

    with pytest.raises(ConfigurationError, match=r"the ledger .* has records; .* has files; .* MLflow's database has"):
        restore(places_of(standing), kept)

    assert standing.stores().ledger.head() == before


def test_a_backup_needs_a_folder_of_its_own(standing: Place, kept: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not empty"):
        backup(places_of(standing), kept)


def others_at_work(monkeypatch: pytest.MonkeyPatch, **moments: Callable[[], object]) -> None:
    """Let something happen just before the first file is copied whose name holds a word, ``_`` standing for ``.``."""
    add, waiting = Archive.add, dict(moments)

    def disturbed(archive: Archive, name: str, pieces: Iterable[bytes]) -> None:
        for word in [word for word in waiting if word.replace("_", ".") in name]:
            waiting.pop(word)()
        add(archive, name, pieces)

    monkeypatch.setattr(Archive, "add", disturbed)


def test_a_backup_made_while_others_work_is_whole_and_consistent(
    restored: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, stores, spool = restored.spec(), restored.stores(), restored.folder / "spool"
    raw, numbers = restored.table(Table.RAW), iter(range(100))
    DeltaTable(raw).create_checkpoint()
    staging = Staging(stores.tables, Target(raw, MARCH, stores.tables.replaced(raw, MARCH), "busy"))
    staging.stage(stores.tables.read(raw, partitions=[MARCH]), index=0)
    writer = SegmentWriter(spool / MODEL, "busy", max_bytes=1)

    def answer() -> None:
        writer.append([{"request_id": f"r{next(numbers)}", "row": 0, "model": MODEL, "version": "2"}])

    def deliver() -> None:
        run = f"deliver-{next(numbers)}"
        monitor.deliver_predictions(spec, stores, spool_dir=str(spool), origin=origin("deliver_predictions", run))

    def segments_are_delivered_and_written() -> None:
        deliver()
        answer()

    def traffic_moves_and_predictions_are_delivered() -> None:
        settle(stores, "1")
        answer()
        deliver()

    def tables_get_checkpoints() -> None:
        writer_of = stores.tables.replace_partition(raw, JANUARY)
        writer_of.write(stores.tables.read(raw, partitions=[JANUARY]).head(100), origin_key="busy")
        DeltaTable(raw).create_checkpoint()

    answer()
    others_at_work(
        monkeypatch,
        sealed=segments_are_delivered_and_written,
        registry_jsonl=traffic_moves_and_predictions_are_delivered,
        _last_checkpoint=tables_get_checkpoints,
        parquet=staging.discard,
    )
    manifest = backup(places_of(restored), tmp_path / "busy")
    writer.close()

    assert not [name for name in manifest.files if "chunks-" in name]
    again = Place(tmp_path / "again")
    again.folder.mkdir()
    restore(places_of(again), tmp_path / "busy")
    there = again.stores()
    assert audit.verify(there).versions == 2
    assert champion(there.ledger, MODEL) == there.registry.aliases(MODEL)[Alias.CHAMPION] == "1"
    for uri in there.tables.all():
        there.tables.read(uri)
    with closing(SegmentWriter(again.folder / "spool" / MODEL, "busy")) as revived:
        revived.append([{"request_id": "after", "row": 0, "model": MODEL, "version": "2"}])
    monitor.deliver_predictions(
        spec, there, spool_dir=str(again.folder / "spool"), origin=origin("deliver_predictions", "again")
    )
    logged = there.tables.read(again.table(Table.PREDICTION_LOG))["request_id"]
    assert logged.is_unique
    assert len(logged) == 5  # that of the first place, three answers while the backup was made, one after it
    assert "after" in set(logged)


def test_a_file_of_a_table_that_vanishes_is_never_passed_over(
    restored: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables, raw = restored.stores().tables, restored.table(Table.RAW)
    before = set(DeltaTable(raw).file_uris())
    tables.replace_partition(raw, MARCH).write(tables.read(raw, partitions=[MARCH]).head(9), origin_key="newer")
    [old] = before - set(DeltaTable(raw).file_uris())
    newest = Path(max(DeltaTable(raw).file_uris()))

    with monkeypatch.context() as during:
        others_at_work(during, **{f"{newest.parent.name}/{newest.name}".replace(".", "_"): newest.unlink})
        content = newest.read_bytes()
        with pytest.raises(FileGoneError, match="somebody vacuums or clears the tables"):
            backup(places_of(restored), tmp_path / "one")
    with pytest.raises(EvidenceError, match=r"raw has lost 1 of the 3 files of its newest version"):
        backup(places_of(restored), tmp_path / "two")
    newest.write_bytes(content)
    Path(old).unlink()
    backup(places_of(restored), tmp_path / "three")
    assert "has lost 1 files of older versions" in caplog.text


def test_stores_of_an_older_layout_are_kept_as_they_are_and_upgraded_where_they_are_restored(
    tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_mlflow, tmp_path / name)
    digests = old_ledger(f"sqlite:///{tmp_path}/old/ledger.db")
    predictions = f"{tmp_path}/old/tables/{MODEL}/predictions"
    rows = pd.DataFrame({"trip": ["a", "b"], "probability": [0.25, 0.75], "partition": [JANUARY, FEBRUARY]})
    write_deltalake(predictions, rows, partition_by=["partition"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(Environment.SPOOL_DIR, raising=False)
    for name in ("old", "new"):
        monkeypatch.setenv(Environment.TABLES_URI, f"{tmp_path}/{name}/tables")
        monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{tmp_path}/{name}/ledger.db")
        monkeypatch.setenv(Environment.REGISTRY_URI, f"sqlite:///{tmp_path}/{name}/mlflow.db")
        assert main((("backup" if name == "old" else "restore"), "kept")) == 0
    assert (
        "1 of its tables have an older layout. Bring them to this one's with: mlops upgrade" in capsys.readouterr().out
    )

    assert [main(("upgrade",)), main(("audit", "verify"))] == [0, 0]

    there = Stores.from_environment()
    assert [record.digest for record in there.ledger.records()] == digests
    assert there.tables.read(TableRef(predictions, 0, JANUARY)).to_dict("list") == {
        "trip": ["a"],
        "probability": [0.25],
    }
    assert there.tables.read(there.tables.uri(MODEL, "predictions"))["prediction"].tolist() == [0.25, 0.75]


def test_a_copy_is_another_ledger_and_takes_its_own_tables_over_only(
    kept: Path, restored: Place, tmp_path: Path
) -> None:
    copy = Place(tmp_path / "copy")
    copy.folder.mkdir()
    copy.source.mkdir()

    restore(places_of(copy), kept, as_copy=True)

    source, clone = restored.stores(), copy.stores()
    made = clone.ledger.head()
    assert made is not None
    assert (made.kind, made.payload["from"]) == (Kind.COPY, source.ledger.identity)
    assert clone.ledger.identity == made.digest != source.ledger.identity
    assert audit.verify(clone).versions == 2
    ingest_months(copy, JANUARY, FEBRUARY, MARCH)
    frame = clone.tables.read(copy.table(Table.RAW), partitions=[MARCH]).head(9)
    for ledger_of, tables_of in ((copy, restored), (restored, copy)):
        crossed = replace(ledger_of, tables_uri=str(tables_of.folder / "tables")).stores()
        with pytest.raises(ConfigurationError, match="belongs to another environment"):
            crossed.tables.replace_partition(tables_of.table(Table.RAW), MARCH).write(frame, origin_key="crossed")
    for place in (copy, restored):
        own = place.stores().tables.replace_partition(place.table(Table.RAW), MARCH)
        assert own.write(frame, origin_key="own").changed


def test_nothing_is_restored_without_a_place_for_the_segments(kept: Path, tmp_path: Path) -> None:
    place = Place(tmp_path / "new")
    place.folder.mkdir()
    place.source.mkdir()
    places = places_of(place)

    with pytest.raises(ConfigurationError, match=r"Nothing was restored: .* Set MLOPS_SPOOL_DIR"):
        restore(replace(places, spool=None), kept)

    assert not (place.folder / "tables").exists()
    restore(places, kept)
    assert audit.verify(place.stores()).versions == 2


def test_no_segment_is_kept_that_follows_one_kept_in_part(
    tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "old")
    place.folder.mkdir()
    shutil.copy(empty_mlflow, place.folder)
    writers = [SegmentWriter(place.folder / "spool" / MODEL, name, max_seconds=600) for name in ("first", "second")]

    def answer(request: str, *, full: bool = False) -> None:
        for writer in writers:
            writer.max_bytes = 1 if full else 1_000_000
            writer.append([{"request_id": request, "row": 0, "model": MODEL, "version": "2"}])

    answer("before")

    def go_on() -> None:
        answer("meanwhile", full=True)
        answer("newer", full=True)

    others_at_work(monkeypatch, second=go_on)
    backup(places_of(place), tmp_path / "busy")
    for writer in writers:
        writer.close()

    kept = (tmp_path / "busy" / "spool" / MODEL).glob("*/0*")
    assert sorted(
        (path.parent.name, path.name, [json.loads(line)["request_id"] for line in path.read_text().splitlines()])
        for path in kept
    ) == [
        ("first", "000000000001.open", ["before"]),
        ("second", "000000000001.sealed", ["before", "meanwhile"]),
    ]


def test_segments_that_wait_on_s3_are_kept_and_restored_once_each(
    tmp_path: Path, empty_mlflow: Path, aws: Aws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_mlflow, tmp_path / name)
    addresses = {name: f"s3://{aws.bucket()}/spool" for name in ("old", "new")}

    def use(name: str, shipped: str = "") -> None:
        monkeypatch.setenv(Environment.TABLES_URI, f"{tmp_path}/{name}/tables")
        monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{tmp_path}/{name}/ledger.db")
        monkeypatch.setenv(Environment.REGISTRY_URI, f"sqlite:///{tmp_path}/{name}/mlflow.db")
        monkeypatch.setenv(Environment.SPOOL_DIR, f"{tmp_path}/{name}/spool")
        monkeypatch.setenv(Environment.SPOOL_URI, shipped)

    folder = tmp_path / "old" / "spool" / MODEL
    writer = SegmentWriter(folder, "server", max_bytes=1, ship_to=f"{addresses['old']}/{MODEL}", s3=aws.s3())
    for request in ("one", "two"):
        writer.append([{"request_id": request, "row": 0}])
    writer.close()
    with closing(SegmentWriter(folder, "server")) as writer:
        writer.append([{"request_id": "three", "row": 0}])

    def moved() -> None:
        ship_abandoned(folder, f"{addresses['old']}/{MODEL}", aws.s3())

    use("old", addresses["old"])
    with monkeypatch.context() as during:
        others_at_work(during, spool=moved)
        assert main(("backup", "kept")) == 0
    use("new")
    assert main(("restore", "kept")) == 1
    assert "3 files of prediction segments. Set MLOPS_SPOOL_URI" in capsys.readouterr().err
    use("new", addresses["new"])
    assert main(("restore", "kept")) == 0

    tables = Stores.from_environment().tables
    uri, spool = tables.uri(MODEL, "log"), f"{addresses['new']}/{MODEL}"
    assert deliver(tables, uri, spool, aws.s3(), left_in=tmp_path / "new" / "spool" / MODEL).rows == 3
    assert sorted(tables.read(uri)["request_id"]) == ["one", "three", "two"]


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

    use(tmp_path / "copy")
    assert main(("restore", kept, "--as-copy")) == 0
    assert "It is a copy with a ledger of its own" in capsys.readouterr().out
    use(tmp_path / "third")
    assert main(("restore", kept)) == 0
    assert "It stands in for the place that was backed up" in capsys.readouterr().out
    assert main(("audit", "verify")) == 0
    third = Stores.from_environment()
    assert third.ledger.records() == stores.ledger.records()
    # Twice moved: what the first place's records name is found in the third.
    assert len(third.tables.read(provenance(third.ledger, MODEL, "1").features, partitions=[JANUARY])) == 600

    monkeypatch.setenv(Environment.REGISTRY_URI, "http://127.0.0.1:9")
    assert main(("backup", str(tmp_path / "wednesday"))) == 1
    assert "--registry-database" in capsys.readouterr().err


def test_every_record_is_restored_as_it_was(kept: Path, standing: Place) -> None:
    records = [json.loads(line) for line in (kept / "ledger.jsonl").read_text().splitlines()]

    assert [record.as_json() for record in standing.stores().ledger.records()] == records
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

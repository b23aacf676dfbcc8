"""A store that is away or full: a transient error in words, nothing half-written, and a retry goes through."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlops_provider.core.names import Kind, Table
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import StoreUnavailableError
from mlops_provider.steps import deploy, ingest, train
from mlops_provider.stores import database
from mlops_provider.targets import Server
from support import soundness, tasks
from support.children import run
from support.stack import free_port
from support.tiny import (
    FEBRUARY,
    JANUARY,
    Place,
    ingest_month,
    ingest_months,
    origin,
    register_candidate,
    train_candidate,
    trips,
    write_month,
)


def nobody() -> str:
    """Host and port where nobody listens."""
    return f"127.0.0.1:{free_port()}"


# The registry.


@pytest.mark.usefixtures("with_mlflow")
def test_a_training_waits_for_mlflow_and_then_goes_through(place: Place) -> None:
    ingest_months(place, JANUARY, FEBRUARY)
    spec, address = place.spec(), f"http://{nobody()}"
    away, stores = replace(place, registry_uri=address).stores(), place.stores()
    declaration = train.declare_gate(spec, stores, FEBRUARY, origin=origin("declare_gate", "t"))
    fitting: dict[str, Any] = {"parameters": {}, "declaration": declaration, "origin": origin("train_model", "t")}

    with pytest.raises(StoreUnavailableError, match=f"MLflow at {address} cannot be used.* Check that the server runs"):
        train.train_model(spec, away, FEBRUARY, **fitting)
    assert soundness.records(place, Kind.TRAINING) == []
    run_id = train.train_model(spec, stores, FEBRUARY, **fitting)
    with pytest.raises(StoreUnavailableError, match=address):
        train.evaluate_model(
            spec, away, FEBRUARY, run_id=run_id, declaration=declaration, origin=origin("evaluate_model", "t")
        )
    assert soundness.records(place, Kind.EVALUATION) == []
    _, verdict = train_candidate(place, FEBRUARY, "t")
    with pytest.raises(StoreUnavailableError, match=address):
        train.register_model(spec, away, run_id=run_id, verdict=verdict, origin=origin("register_model", "t"))
    assert soundness.records(place, Kind.REGISTRATION) == []

    register_candidate(place, FEBRUARY, "t")
    assert soundness.assert_registered_once(place, soundness.assert_trained_once(place, "t")) == "1"
    soundness.assert_nothing_broken(place)


@pytest.mark.usefixtures("with_mlflow")
def test_a_training_whose_disk_is_full_goes_through_once_there_is_room(place: Place) -> None:
    ingest_months(place, JANUARY, FEBRUARY)
    declaration = run(tasks.declare_gate, place, through=FEBRUARY, run="t").result
    about = {"through": FEBRUARY, "run": "t", "declaration": declaration}

    # Large enough for the ledger, too small for the model's files or MLflow's database.
    full = run(tasks.on_a_small_disk, place, step="train_model", largest=200_000, about=about)

    assert full.error == "StoreUnavailableError", full.message
    assert "have space" in full.message
    assert soundness.records(place, Kind.TRAINING) == []
    assert run(tasks.train_model, place, **about).succeeded
    soundness.assert_trained_once(place, "t")
    soundness.assert_nothing_broken(place)


# The ledger.


@pytest.mark.parametrize(
    "address", ["postgresql+psycopg://ledger:secret@{nobody}/ledger", "sqlite:///{folder}/no/l.db"]
)
def test_an_ingest_waits_for_the_ledger_and_then_goes_through(place: Place, address: str) -> None:
    write_month(place.source, JANUARY)
    away = replace(place, ledger_url=address.format(nobody=nobody(), folder=place.folder))

    with pytest.raises(StoreUnavailableError, match="ledger.* MLOPS_LEDGER_URL") as unavailable:
        ingest_month(away, JANUARY)

    assert "secret" not in str(unavailable.value)
    ingest_month(place, JANUARY)
    assert soundness.replacements(place, Table.RAW, JANUARY) == 1
    assert len(soundness.records(place, Kind.LANDING)) == 1
    soundness.assert_nothing_broken(place)


def test_a_ledger_that_somebody_locks_is_waited_for_and_then_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.2)
    ingest_months(place, JANUARY)
    write_month(place.source, FEBRUARY)

    with closing(sqlite3.connect(place.folder / "ledger.db", isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="ledger at .* cannot be used: database is locked"):
            ingest_month(place, FEBRUARY)
        somebody.execute("ROLLBACK")

    ingest_month(place, FEBRUARY)
    assert soundness.replacements(place, Table.RAW, FEBRUARY) == 1
    assert len(soundness.records(place, Kind.LANDING)) == 2
    soundness.assert_nothing_broken(place)


# The tables.


def test_a_folder_that_cannot_be_written_is_named(place: Place) -> None:
    write_month(place.source, JANUARY)
    Path(place.folder, "tables").write_text("a file stands where the folder should be")

    with pytest.raises(
        StoreUnavailableError, match=r"table store at .*tables.* cannot be reached\. Check MLOPS_TABLES"
    ):
        ingest_month(place, JANUARY)

    assert soundness.records(place, Kind.LANDING) == []
    Path(place.folder, "tables").unlink()
    ingest_month(place, JANUARY)
    soundness.assert_nothing_broken(place)


def test_a_landing_whose_disk_is_full_shows_nothing_of_the_month(place: Place) -> None:
    ingest_months(place, JANUARY)
    contents, versions = soundness.contents(place), soundness.versions(place)
    write_month(place.source, FEBRUARY, trips(FEBRUARY, rows=30_000))
    about = {"month": FEBRUARY, "run": "r"}

    full = run(tasks.on_a_small_disk, place, step="land", largest=200_000, about=about)

    assert full.error == "StoreUnavailableError", full.message
    assert full.message.startswith(f"Disk full while writing {place.table(Table.RAW)}.")
    assert "free space there" in full.message
    assert soundness.contents(place) == contents
    assert soundness.versions(place) == versions
    assert soundness.records(place, Kind.LANDING, "r") == []
    assert run(tasks.land, place, **about).succeeded
    assert soundness.replacements(place, Table.RAW, FEBRUARY) == 1
    soundness.assert_nothing_broken(place)


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """The place's tables on a file system of 2 MB."""
    folder = place.folder / "tables"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_each_step_of_an_ingest_outlives_a_full_disk(place: Place, small_disk: Path) -> None:
    ingest_months(place, JANUARY)
    write_month(place.source, FEBRUARY)
    spec, stores = place.spec(), place.stores()
    contents = soundness.contents(place)
    filler = small_disk / "filler"

    def once_there_is_room(act: Callable[[], TableRef]) -> TableRef:
        nonlocal contents
        room = os.statvfs(small_disk)
        filler.write_bytes(b"x" * (room.f_bavail * room.f_bsize))
        with pytest.raises(StoreUnavailableError, match="(free space|has room)"):
            act()
        assert soundness.contents(place) == contents
        filler.unlink()
        done = act()
        contents = soundness.contents(place)
        return done

    raw = once_there_is_room(lambda: ingest.land(spec, stores, FEBRUARY, origin=origin("land_data", "r")))
    clean = once_there_is_room(
        lambda: ingest.validate(spec, stores, FEBRUARY, raw, origin=origin("validate_data", "r"))
    )
    once_there_is_room(
        lambda: ingest.build_features(spec, stores, FEBRUARY, clean, origin=origin("build_features", "r"))
    )

    for table in (Table.RAW, Table.CLEAN, Table.FEATURES):
        assert soundness.replacements(place, table, FEBRUARY) == 1
    soundness.assert_nothing_broken(place)


# The model server.


@pytest.mark.usefixtures("with_mlflow")
def test_a_rollout_without_a_server_moves_nothing_and_says_what_to_start(place: Place) -> None:
    ingest_months(place, JANUARY, FEBRUARY)
    version, stores = register_candidate(place, FEBRUARY, "t"), place.stores()
    target = Server(f"http://{nobody()}", model=stores.ledger.models()[0], ledger=stores.ledger)

    for act in (deploy.check_serving, deploy.deploy):
        with pytest.raises(StoreUnavailableError, match="Start the model server: mlops serve"):
            act(place.spec(), stores, version, target=target, origin=origin(act.__name__, "d"))

    assert soundness.records(place, Kind.TRAFFIC) == []
    soundness.assert_nothing_broken(place)

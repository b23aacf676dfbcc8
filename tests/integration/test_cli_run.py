"""The commands that work without Airflow, on the tiny use case."""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

import pytest

from mlops_provider.cli.main import main
from mlops_provider.core.names import Environment, Kind, Table
from support.tiny import FEBRUARY, JANUARY, MODEL, USE_CASE, Place, write_month

MODEL_YAML = str(USE_CASE / "model.yaml")
ADDRESSES = [*Environment, "MLOPS_HOME", "MLFLOW_TRACKING_URI"]


@pytest.fixture
def here(place: Place, with_mlflow: None, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The place as a project folder, its stores named in the environment."""
    for variable in ADDRESSES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(Environment.TABLES_URI, str(place.folder / "tables"))
    monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{place.folder}/ledger.db")
    monkeypatch.setenv(Environment.REGISTRY_URI, f"sqlite:///{place.folder}/mlflow.db")
    monkeypatch.chdir(place.folder)
    return place


def mlops(*words: str) -> int:
    return main([str(word) for word in words])


def ingest(place: Place, *months: str) -> None:
    for month in months:
        write_month(place.source, month)
        assert mlops("run", "ingest", "--model", MODEL_YAML, "--partition", month) == 0


def test_a_month_is_ingested_step_by_step(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(here, JANUARY)

    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines()] == ["land_data", "validate_data", "build_features"]
    assert here.stores().tables.partitions(here.table(Table.FEATURES)) == [JANUARY]
    assert here.stores().ledger.latest(Kind.FEATURES, MODEL) is not None


def test_unchanged_input_is_nothing_to_do(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(here, JANUARY, JANUARY)

    assert "Nothing to do" in capsys.readouterr().out


def test_a_bad_month_fails_in_words(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlops("run", "ingest", "--model", MODEL_YAML, "--partition", JANUARY) == 1

    said = capsys.readouterr().err
    assert said.startswith("mlops run: ")
    assert "Traceback" not in said


def test_a_missing_month_is_asked_for(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlops("run", "score", "--model", MODEL_YAML) == 1

    assert "score works on one month at a time: name it, as in --partition 2013-01." in capsys.readouterr().err


def test_scoring_before_there_is_a_model_is_nothing_to_do(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(here, JANUARY)

    assert mlops("run", "score", "--model", MODEL_YAML, "--partition", JANUARY) == 0
    assert "no version in service" in capsys.readouterr().out


@pytest.mark.slow
def test_two_months_make_a_registered_version(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for month in (JANUARY, FEBRUARY):
        write_month(here.source, month)
        assert mlops("run", "all", "--model", MODEL_YAML, "--partition", month) == 0

    said = capsys.readouterr().out
    assert said.count("decide_retrain") == 2
    assert "register_model" in said
    assert "version 1 is registered, not deployed" in said
    assert [version.version for version in here.stores().registry.versions(MODEL)] == ["1"]


@pytest.mark.slow
def test_a_training_that_was_cut_off_goes_on_under_its_id(here: Place) -> None:
    ingest(here, JANUARY, FEBRUARY)
    words = ("run", "train", "--model", MODEL_YAML, "--partition", FEBRUARY, "--run-id", "once")

    assert (mlops(*words), mlops(*words)) == (0, 0)

    assert len(here.stores().ledger.history(Kind.SEARCH, MODEL)) == 1
    assert len(here.stores().registry.versions(MODEL)) == 1


def test_deploying_needs_a_version_and_rolling_back_a_history(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(Environment.SERVER_URL, "http://127.0.0.1:9")
        assert mlops("run", "deploy", "--model", MODEL_YAML) == 1
        assert mlops("rollback", "--model", MODEL_YAML, "--reason", "tried") == 1

    said = capsys.readouterr().err
    assert "No version of 'bus_delays' is registered" in said
    assert "Nothing to roll back" in said


def test_a_chain_that_holds_is_told_with_its_head(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlops("audit", "verify") == 0
    record = here.stores().ledger.append(Kind.LANDING, MODEL, {"rows": 1})

    assert mlops("audit", "verify") == 0
    said = capsys.readouterr().out
    assert "The ledger is empty." in said
    assert f"1 records, head {record.digest}" in said


def test_a_changed_record_breaks_the_chain_and_is_named(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = here.stores().ledger
    records = [ledger.append(Kind.LANDING, MODEL, {"rows": rows}) for rows in range(3)]
    with sqlite3.connect(here.folder / "ledger.db") as connection:
        connection.execute("drop trigger mlops_records_no_update")
        connection.execute("update mlops_records set payload = '{\"rows\":7}' where seq = 2")
    connection.close()

    assert mlops("audit", "verify") == 1
    assert f"record 2 (landing of bus_delays, {records[1].record_id})" in capsys.readouterr().err


def test_without_any_stack_or_setting_work_stays_in_the_project(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ADDRESSES:
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.chdir(place.folder)

    ingest(place, JANUARY)

    assert f"working in {place.folder / '.mlops/local'}" in capsys.readouterr().out
    assert (place.folder / ".mlops/local/data/bus_delays/features").is_dir()


def test_doctor_finds_nothing_wrong_with_a_place_that_works(
    here: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free_ports(monkeypatch)

    code = mlops("doctor")

    said = capsys.readouterr().out
    assert code == 0, said
    for line in ("Python 3.", "pandas 2.", "tables can be used", "ledger can be used", "registry can be used"):
        assert line in said
    assert "All is well." in said


def test_doctor_names_what_is_wrong_and_the_fix(
    here: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free_ports(monkeypatch)
    (here.folder / "a_file").touch()
    monkeypatch.setenv(Environment.TABLES_URI, str(here.folder / "a_file"))
    monkeypatch.setenv(Environment.REGISTRY_URI, "http://127.0.0.1:9")
    monkeypatch.setenv(Environment.SERVER_URL, "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("MLOPS_EVIDENTLY_PORT", str(taken.getsockname()[1]))

        assert mlops("doctor") == 1

    said = capsys.readouterr().out
    assert "fail  tables: " in said
    assert "fail  registry: MLflow at http://127.0.0.1:9 cannot be used" in said
    assert "fail  model server does not answer at http://127.0.0.1:9" in said
    assert "fix: set MLOPS_EVIDENTLY_PORT to another one" in said
    assert "4 checks failed." in said
    assert not list(here.folder.glob("**/.mlops-doctor-*"))


def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW", "MLFLOW", "SERVER", "EVIDENTLY"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            monkeypatch.setenv(f"MLOPS_{name}_PORT", str(probe.getsockname()[1]))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    from mlops_provider.cli.doctor import _write_folder

    (tmp_path / "a_file").touch()

    with pytest.raises(OSError, match="Not a directory"):
        _write_folder(str(tmp_path / "a_file"))

"""`mlops audit verify` on a real ledger and MLflow; and whose credentials a registry connection leaves behind."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from mlops_provider.cli.main import main
from mlops_provider.core.names import Alias, Environment, Kind, Tag
from mlops_provider.hooks.registry import RegistryHook
from support.serving import MODEL, World


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> World:
    """Two versions in the registry; each test gets its own ledger, tags and alias."""
    made = World(tmp_path_factory.mktemp("audit"), empty_mlflow)
    for seed in (1, 2):
        made.register(seed, recorded=False)
    return made


@pytest.fixture
def world(trained: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Both versions recorded and tagged, as the train DAG does; version 1 has settled and been promoted."""
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setenv(Environment.REGISTRY_URI, trained.registry_uri)
    trained.use_ledger(tmp_path / "ledger.db")
    trained.record("1")
    trained.registry.set_alias(MODEL, Alias.CHAMPION, "1")
    promoted(trained, "1")
    trained.record("2")
    for version in ("1", "2"):
        record = trained.ledger.find(Kind.REGISTRATION, trained.runs[version])
        assert record is not None
        trained.registry.tag_version(MODEL, version, {Tag.LEDGER_HEAD: record.digest})
    return trained


def promoted(world: World, version: str) -> None:
    generation = world.settle({version: 100}).generation
    world.ledger.append(Kind.PROMOTION, MODEL, {"version": version}, key=f"{MODEL}:{generation}")


def cut(world: World, kind: Kind) -> None:
    """Remove the newest record of a kind and all that follow it, as somebody with the file could."""
    world.ledger.close()
    connection = sqlite3.connect(world.ledger_file)
    connection.execute("drop trigger mlops_records_no_delete")
    connection.execute(
        "delete from mlops_records where seq >= (select max(seq) from mlops_records where kind = ?)", [str(kind)]
    )
    connection.commit()
    connection.close()


def verified() -> int:
    return main(["audit", "verify"])


def test_a_registry_that_agrees_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified() == 0

    said = capsys.readouterr().out
    assert "The chain holds" in said
    assert "The registry agrees with it: 2 versions" in said


def test_a_version_that_somebody_registered_beside_a_decision_of_their_own_is_no_finding(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.ledger.append(Kind.DECISION, "theirs", {"decision": {"register": True}})
    world.registry._client.create_registered_model("theirs")
    world.registry._client.create_model_version("theirs", str(Path.cwd()))
    world.registry.set_alias("theirs", Alias.CHAMPION, "1")

    assert verified() == 0
    assert "The registry agrees with it: 2 versions" in capsys.readouterr().out


def test_a_cut_tail_names_the_version_whose_record_is_gone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cut(world, Kind.REGISTRATION)

    assert world.ledger.verify() is None
    assert verified() == 1
    said = capsys.readouterr().err
    assert f"Version 2 of {MODEL!r}" in said
    assert "its tail was cut" in said
    assert "Version 1" not in said


@pytest.mark.parametrize("left", [False, True], ids=["an empty ledger", "records of another model"])
def test_a_model_whose_records_are_all_gone_is_found_by_its_versions(
    world: World, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.use_ledger(tmp_path / "fresh.db")
    monkeypatch.setenv(Environment.LEDGER_URL, world.ledger_url)
    if left:
        world.ledger.append(Kind.LANDING, "another", {})
    for version in ("1", "2"):
        world.registry.tag_version(MODEL, version, {Tag.MODEL: MODEL})
    world.registry._ensure_model("somebody_elses")

    assert verified() == 1
    said = capsys.readouterr().err
    for version in ("1", "2"):
        assert f"Version {version} of {MODEL!r}" in said
    assert "it holds no registration of this model at all" in said
    assert f"Alias champion of {MODEL!r} points at version 1, but no version has settled traffic" in said
    assert "somebody_elses" not in said


def test_a_rewritten_tail_shows_though_its_chain_holds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cut(world, Kind.REGISTRATION)
    world.record("2")

    assert world.ledger.verify() is None
    assert verified() == 1
    assert "its tail was rewritten" in capsys.readouterr().err


@pytest.mark.parametrize("recorded", [True, False])
def test_a_version_without_its_tag_is_named(world: World, recorded: bool, capsys: pytest.CaptureFixture[str]) -> None:
    world.registry._client.delete_model_version_tag(MODEL, "2", Tag.LEDGER_HEAD)
    if not recorded:
        cut(world, Kind.REGISTRATION)

    assert verified() == 1
    said = capsys.readouterr().err
    assert f"Version 2 of {MODEL!r}" in said
    assert ("lacks the tag" if recorded else "neither a registration record nor the tag") in said


def test_a_champion_moved_by_hand_is_an_out_of_band_change(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.registry.set_alias(MODEL, Alias.CHAMPION, "2")

    assert verified() == 1
    said = capsys.readouterr().err
    assert "points at version 2, but generation 1 of the ledger gives the traffic to version 1" in said
    assert "out-of-band change" in said


def test_a_removed_champion_is_an_out_of_band_change(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.registry.remove_alias(MODEL, Alias.CHAMPION, "1")

    assert verified() == 1
    assert f"Alias champion of {MODEL!r} is missing" in capsys.readouterr().err


def test_a_champion_without_settled_traffic_is_an_out_of_band_change(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(world, Kind.TRAFFIC)

    assert verified() == 1
    assert "no version has settled traffic" in capsys.readouterr().err


def test_a_rollout_under_way_changes_nothing(world: World) -> None:
    world.settle({"1": 50, "2": 50}, settled=False)

    assert verified() == 0


def test_a_deployment_moves_the_alias_after_it_settles(world: World) -> None:
    world.settle({"2": 100})

    before = verified()
    world.registry.set_alias(MODEL, Alias.CHAMPION, "2")

    assert (before, verified()) == (0, 0)


def test_a_promoted_version_must_be_the_champion(world: World) -> None:
    promoted(world, "2")

    assert verified() == 1


def test_a_champion_moved_back_after_a_rollback_is_an_out_of_band_change(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(world, "2")
    world.ledger.propose_traffic(MODEL, {"1": 100}, settled=True, expected_generation=2, strategy="rollback")
    rolled_back = verified()
    world.registry.set_alias(MODEL, Alias.CHAMPION, "2")

    assert (rolled_back, verified()) == (0, 1)
    assert "or MLflow was away during that rollback" in capsys.readouterr().err


def test_without_a_registry_it_says_what_was_not_compared(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.registry.set_alias(MODEL, Alias.CHAMPION, "2")
    monkeypatch.delenv(Environment.REGISTRY_URI)
    monkeypatch.chdir(world.folder)

    assert verified() == 0
    assert "The registry was not compared: MLOPS_REGISTRY_URI is not set." in capsys.readouterr().out


def opened(monkeypatch: pytest.MonkeyPatch, login: str | None = None) -> None:
    """Open MLflow's client by a connection, with a login or without."""
    about = {"conn_type": "mlops_registry", "host": "http://mlflow:5000"}
    if login:
        about |= {"login": login, "password": "hush"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_REGISTRY", json.dumps(about))
    assert RegistryHook().client.tracking_uri == "http://mlflow:5000"


def credentials() -> tuple[str | None, str | None]:
    return os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")


def test_a_connection_without_login_gets_no_credentials_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)

    opened(monkeypatch, "ada")
    exported = credentials()
    opened(monkeypatch)

    assert exported == ("ada", "hush")
    assert credentials() == (None, None)


def test_credentials_of_the_worker_outlast_those_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "worker")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "its own")

    opened(monkeypatch)
    untouched = credentials()
    for login in ("ada", "ben", None):
        opened(monkeypatch, login)

    assert untouched == credentials() == ("worker", "its own")

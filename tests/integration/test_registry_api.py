"""The registry by REST, against a real MLflow server that asks for a password."""

from __future__ import annotations

import configparser
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import mlflow
import pytest
from sklearn.dummy import DummyClassifier

from compat import material
from mlops_provider.exceptions import ConfigurationError, PermanentError, StoreUnavailableError
from mlops_provider.hooks.registry import RegistryHook
from mlops_provider.stores.registry_api import RegistryApi

ADMIN, PASSWORD = "ada", "correct-horse-battery"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server with accounts."""
    home = tmp_path_factory.mktemp("guarded")
    accounts = configparser.ConfigParser()
    accounts["mlflow"] = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{home}/accounts.db",
        "admin_username": ADMIN,
        "admin_password": PASSWORD,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    with (home / "accounts.ini").open("w") as file:
        accounts.write(file)
    port = material.free_port()
    command = [sys.executable, "-W", "ignore", "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--default-artifact-root", str(home / "files")]
    environment = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(home / "accounts.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test only",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with material.server(command, port, "/health", home / "server.log", environment) as address:
        yield address


@pytest.fixture
def api(guarded: str) -> RegistryApi:
    return RegistryApi(guarded, login=ADMIN, password=PASSWORD)


@pytest.fixture(scope="module")
def logged(guarded: str) -> tuple[str, str]:
    """A run and the ID of the model that MLflow's own client logged in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(guarded)
        try:
            with mlflow.start_run() as run:
                model = DummyClassifier().fit([[0], [1]], [0, 1])
                info = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
        finally:
            mlflow.set_tracking_uri(before)
    return run.info.run_id, info.model_id


def test_a_model_is_registered_once_by_whichever_address(api: RegistryApi, logged: tuple[str, str]) -> None:
    run_id, model_id = logged

    by_run = api.ensure_version("delays", f"runs:/{run_id}/model", tags={"team": "ops"})
    by_model = api.ensure_version("delays", f"models:/{model_id}")

    assert (by_run, by_model) == (("1", True), ("1", False))


def test_of_two_that_register_at_once_one_version_stays(api: RegistryApi) -> None:
    source = "s3://bucket/raced"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: api.ensure_version("raced", source)[0], range(4)))

    assert len({*found, api.ensure_version("raced", source)[0]}) == 1


def test_an_alias_moves_and_says_where_it_was(api: RegistryApi) -> None:
    first, _ = api.ensure_version("moved", "s3://bucket/one")
    second, _ = api.ensure_version("moved", "s3://bucket/two")

    moves = [api.promote("moved", version, "champion") for version in (first, second, second)]

    assert [move.previous for move in moves] == [None, first, second]
    assert api.aliased("moved", "champion") == second


def test_a_version_that_is_not_there_is_named(api: RegistryApi) -> None:
    with pytest.raises(PermanentError, match="has no version 9 of 'nowhere': register it first"):
        api.promote("nowhere", "9", "champion")


def test_wrong_credentials_are_told_apart_from_a_server_that_is_away(guarded: str) -> None:
    with pytest.raises(ConfigurationError, match="refuses the credentials"):
        RegistryApi(guarded, login=ADMIN, password="wrong").aliased("delays", "champion")
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        RegistryApi(f"http://127.0.0.1:{material.free_port()}").aliased("delays", "champion")


def test_the_hook_gives_each_connection_its_own_credentials_and_the_process_none(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, password in (("RIGHT", PASSWORD), ("WRONG", "wrong")):
        about = {"conn_type": "mlops_registry", "host": guarded, "login": ADMIN, "password": password}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(about))
    before = dict(os.environ)

    right, wrong = RegistryHook("right").api, RegistryHook("wrong").api

    assert right.aliased("nothing", "champion") is None
    with pytest.raises(ConfigurationError):
        wrong.aliased("nothing", "champion")
    assert right.aliased("nothing", "champion") is None
    assert dict(os.environ) == before


def test_a_password_without_a_login_is_sent_as_a_token(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json={"registered_model": {"name": "m"}})

    api = RegistryApi("http://mlflow.example", password="t0ken")
    api.transport = httpx.MockTransport(answer)

    assert api.aliased("m", "champion") is None
    assert seen == ["Bearer t0ken"]


def test_a_database_in_place_of_a_server_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="must be that of an MLflow server"):
        RegistryApi("sqlite:////data/mlflow.db")


def test_a_missing_connection_is_named_by_every_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_REGISTRY_URI", raising=False)

    for conn_id, instead in (("mlops_registry", True), ("other_registry", False)):
        for way in ("api", "client", "credentials", "address"):
            with pytest.raises(ConfigurationError, match=f"Airflow has no connection '{conn_id}'") as refused:
                getattr(RegistryHook(conn_id), way)
            assert ("MLOPS_REGISTRY_URI" in str(refused.value)) is instead

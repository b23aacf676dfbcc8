"""Which processes make a stack, and with what settings."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mlops_provider.cli import replay, up
from mlops_provider.cli.home import PORTS, SETTINGS_FILE, Home, Secrets, Stack
from mlops_provider.cli.processes import Service
from mlops_provider.cli.stack import LOCAL_SETTINGS, airflow_environment, base_environment, services
from mlops_provider.exceptions import ConfigurationError, SpecError

NUMBERS = {"airflow": 18080, "mlflow": 15000, "server": 18090, "evidently": 18000}
SECRETS = Secrets(fernet_key="f" * 43 + "=", jwt_secret="j" * 64, api_secret_key="a" * 64, admin_password="p")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "dags").mkdir()
    return Home(tmp_path / ".mlops", tmp_path)


@pytest.fixture
def parts(home: Home) -> dict[str, Service]:
    return {service.name: service for service in services(home, NUMBERS, SECRETS, fault="2013-04")}


def test_everything_that_listens_does_so_on_the_loopback_interface(parts: dict[str, Service]) -> None:
    for name in ("api-server", "mlflow", "server", "evidently"):
        command = parts[name].command
        assert command[command.index("--host") + 1] == "127.0.0.1"
    for name in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in parts[name].command


def test_every_port_is_used(parts: dict[str, Service]) -> None:
    used = {part for service in parts.values() for part in service.command}

    assert {str(port) for port in NUMBERS.values()} <= used


def test_only_airflow_gets_airflows_secrets(parts: dict[str, Service]) -> None:
    for name in ("mlflow", "server", "evidently"):
        assert not {SECRETS.fernet_key, SECRETS.jwt_secret, SECRETS.api_secret_key} & set(
            parts[name].environment.values()
        )


def test_no_secret_stands_in_a_command_line(parts: dict[str, Service]) -> None:
    words = " ".join(part for service in parts.values() for part in service.command)

    assert not [
        secret for secret in (SECRETS.fernet_key, SECRETS.jwt_secret, SECRETS.api_secret_key) if secret in words
    ]


def test_the_fault_reaches_the_tasks(parts: dict[str, Service]) -> None:
    assert parts["scheduler"].environment["MLOPS_DEMO_FAULT"] == "2013-04"


def test_children_write_bytecode_send_no_telemetry_and_use_one_thread() -> None:
    environment = base_environment({"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "2"})

    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["DO_NOT_TRACK"] == "1"
    assert (environment["OMP_NUM_THREADS"], environment["OPENBLAS_NUM_THREADS"]) == ("1", "2")


def test_tunables_may_be_overridden_but_not_what_makes_the_stack_itself(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "2")
    monkeypatch.setenv("AIRFLOW_HOME", "/elsewhere")

    environment = airflow_environment(home, NUMBERS, SECRETS)

    assert environment["AIRFLOW__CORE__PARALLELISM"] == "2"
    assert environment["AIRFLOW_HOME"] == str(home.airflow)


def test_a_folder_without_dags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no dags/"):
        airflow_environment(Home(tmp_path / ".mlops", tmp_path), NUMBERS, SECRETS)


def test_the_settings_module_gives_airflow_no_names_to_take_over() -> None:
    names: dict[str, object] = {}

    exec(compile(LOCAL_SETTINGS, "airflow_local_settings.py", "exec"), names)

    assert names["__all__"] == []


def test_a_taken_port_is_named_with_its_variable_before_anything_starts(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = NUMBERS | {"mlflow": port}

        with pytest.raises(ConfigurationError) as refused:
            up.bring_up(home, ports, fault="", timeout=1)

    assert f"port {port} for MLflow" in str(refused.value)
    assert PORTS["mlflow"][0] in str(refused.value)
    assert not home.root.exists()


def test_only_databases_whose_first_start_was_cut_off_are_made_anew(home: Home) -> None:
    home.make()
    databases = (home.airflow / "airflow.db", home.mlflow_database)
    for database in databases:
        database.write_text("half made")
    home.mlflow_stamp.touch()

    up.discard_half_made(home)

    assert [database.exists() for database in databases] == [False, True]


def test_a_mistake_in_the_settings_is_told_before_anything_starts(home: Home) -> None:
    home.make()
    (home.project / SETTINGS_FILE).write_text("airflow:\n  conections: []\n")

    with pytest.raises(SpecError, match=r"airflow_settings.yaml:2: .*did you mean 'connections'"):
        up.bring_up(home, NUMBERS, fault="", timeout=1)

    assert not list(home.run.glob("*.pid"))


def test_a_second_up_waits_for_nobody(home: Home) -> None:
    home.make()

    with up.locked(home), pytest.raises(ConfigurationError, match="Another `mlops up`"), up.locked(home):
        pass


@pytest.mark.parametrize(
    ("running", "asked", "allowed"),
    [("", None, True), ("2013-04", "2013-04", True), ("", "2013-04", False), ("2013-05", "2013-04", False)],
)
def test_a_replay_with_a_fault_needs_a_stack_with_that_fault(running: str, asked: str | None, allowed: bool) -> None:
    stack = Stack(ports=NUMBERS, fault=running)

    if allowed:
        replay.require_fault(stack, asked)
    else:
        with pytest.raises(ConfigurationError, match="mlops up --fault 2013-04"):
            replay.require_fault(stack, asked)


def on_s3(home: Home) -> dict[str, Service]:
    return {service.name: service for service in services(home, {**NUMBERS, "s3": 9009}, SECRETS)}


def test_a_stack_on_s3_has_one_more_part_and_its_artifacts_there(home: Home) -> None:
    parts = on_s3(home)

    assert parts.keys() - {service.name for service in services(home, NUMBERS, SECRETS)} == {"s3"}
    assert parts["s3"].command[-4:] == ("-H", "127.0.0.1", "-p", "9009")
    assert "s3://mlops/artifacts" in parts["mlflow"].command
    assert parts["server"].environment["MLOPS_SPOOL_URI"] == "s3://mlops/spool"


def test_airflow_gets_its_credentials_from_secrets_manager_alone(home: Home) -> None:
    parts = on_s3(home)

    for name in ("scheduler", "api-server", "dag-processor", "triggerer"):
        environment = parts[name].environment
        assert not [variable for variable in environment if variable.startswith("AWS_")]
        assert environment["MLOPS_TABLES_URI"] == "s3://mlops/tables"
        assert environment["MLOPS_AWS_CONN_ID"] == environment["AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID"] == "mlops_aws"
        assert "SecretsManagerBackend" in environment["AIRFLOW__SECRETS__BACKEND"]
    assert parts["mlflow"].environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9009"


def test_what_speaks_of_tables_that_were_in_memory_is_discarded_and_a_folders_data_never(home: Home) -> None:
    home.make()
    home.ledger.touch()
    with pytest.raises(ConfigurationError, match="MLOPS_HOME=.mlops-s3"):
        up.discard_orphaned(home, store="s3")
    up.discard_orphaned(home, store="folder")
    assert home.ledger.exists()

    home.in_memory.touch()
    home.mlflow_database.touch()
    up.discard_orphaned(home, store="s3")

    assert not home.ledger.exists()
    assert not home.mlflow_database.exists()
    assert not home.in_memory.exists()
    assert (home.root / "spool").is_dir()

"""Where the stack lives, which ports it takes, and what is secret about it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from mlops_provider.cli.home import Home, Secrets, Stack, configured_ports, required, use_home
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError

PORTS = {"airflow": 1, "mlflow": 2, "server": 3, "evidently": 4}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLOPS_HOME", raising=False)
    home = Home.here()
    home.make()
    return home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_are_for_their_owner_only(home: Home) -> None:
    secrets = Secrets.of(home)

    assert Secrets.of(home) == secrets
    assert mode(home.root / "secrets.json") == 0o600
    assert mode(secrets.write_passwords(home)) == 0o600
    assert mode(home.root) == 0o700
    assert Fernet(secrets.fernet_key)
    assert len(secrets.jwt_secret) >= 64
    assert secrets.admin_password not in repr(secrets)


def test_two_homes_have_nothing_secret_in_common(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other", tmp_path)
    other.make()

    mine, theirs = Secrets.of(home), Secrets.of(other)

    assert not {getattr(mine, name) for name in Secrets.__slots__} & {
        getattr(theirs, name) for name in Secrets.__slots__
    }


def test_damaged_secrets_are_not_replaced(home: Home) -> None:
    (home.root / "secrets.json").write_text('{"fernet_key": "x"}')

    with pytest.raises(ConfigurationError, match="damaged"):
        Secrets.of(home)


def test_git_ignores_the_home(home: Home) -> None:
    assert (home.root / ".gitignore").read_text() == "*\n"


def test_ports_have_defaults_and_variables() -> None:
    assert configured_ports({}) == {"airflow": 8080, "mlflow": 5000, "server": 8090, "evidently": 8000}
    assert configured_ports({"MLOPS_MLFLOW_PORT": "5050"})["mlflow"] == 5050


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "80.5"])
def test_what_is_no_port_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="MLOPS_SERVER_PORT must be a port"):
        configured_ports({"MLOPS_SERVER_PORT": value})


def test_one_port_for_two_services_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="MLOPS_EVIDENTLY_PORT and MLOPS_AIRFLOW_PORT both say 8080"):
        configured_ports({"MLOPS_EVIDENTLY_PORT": "8080"})


def test_a_command_beside_a_stack_means_that_stack(home: Home) -> None:
    Stack(ports=PORTS, fault="2013-04").write(home)
    environment = {"MLOPS_LEDGER_URL": "sqlite:////mine.db"}

    use_home(environment)

    assert environment["MLOPS_LEDGER_URL"] == "sqlite:////mine.db"
    assert environment["MLOPS_REGISTRY_URI"] == "http://127.0.0.1:2"
    assert environment["MLOPS_TABLES_URI"] == str(home.root / "data")
    assert Stack.read(home) == Stack(ports=PORTS, fault="2013-04")


def test_the_evidence_of_a_stopped_stack_is_still_found(home: Home) -> None:
    home.ledger.touch()
    environment: dict[str, str] = {}

    use_home(environment)

    assert environment["MLOPS_LEDGER_URL"] == f"sqlite:///{home.ledger}"


def test_without_a_stack_work_goes_on_in_the_local_folder(home: Home) -> None:
    begun: dict[str, str] = {}
    home.make_local(begun)
    later: dict[str, str] = {}

    use_home(later)

    assert later["MLOPS_TABLES_URI"] == begun["MLOPS_TABLES_URI"] == str(home.local / "data")
    assert "MLOPS_SERVER_URL" not in later


def test_a_project_without_anything_gets_no_addresses(home: Home) -> None:
    environment: dict[str, str] = {}

    use_home(environment)

    assert not [name for name in environment if name.startswith("MLOPS_")]
    assert environment["DO_NOT_TRACK"] == "1"


def test_a_missing_setting_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(Environment.LEDGER_URL, raising=False)

    with pytest.raises(ConfigurationError, match=r"MLOPS_LEDGER_URL is not set.*mlops up"):
        required(Environment.LEDGER_URL)


def test_a_stack_that_was_forgotten_is_none(home: Home) -> None:
    Stack(ports=PORTS).write(home)
    assert json.loads((home.run / "stack.json").read_text())["ports"] == PORTS

    Stack.forget(home)

    assert Stack.read(home) is None


def test_a_folder_that_was_there_before_keeps_its_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    Home(tmp_path, tmp_path).make()

    assert mode(tmp_path) == 0o755
    assert not (tmp_path / ".gitignore").exists()

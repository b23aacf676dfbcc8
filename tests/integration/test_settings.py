"""`mlops settings apply` on a real Airflow database."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

pytestmark = pytest.mark.slow

KEY = Fernet.generate_key().decode()
FILE = """
airflow:
  connections:
    - conn_id: mlops_ledger
      conn_type: mlops_ledger
      conn_host: db.example
      conn_login: mlops
      conn_password: ${LEDGER_PASSWORD}
      conn_port: 5432
      conn_extra: {timeout: 5}
  pools:
    - {pool_name: training, pool_slot: 1, pool_description: one at a time}
  variables:
    - {variable_name: months, variable_value: "${MONTHS:-6}"}
"""
CREATED = ["connection mlops_ledger created", "pool training created", "variable months created"]

Apply = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow database as `airflow db migrate` leaves it."""
    folder = tmp_path_factory.mktemp("migrated")
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], env=environment(folder), check=True, capture_output=True
    )
    return folder / "airflow.db"


@pytest.fixture
def apply(migrated: Path, tmp_path: Path) -> Apply:
    """Run the command on a copy of that database."""
    (tmp_path / "airflow.db").write_bytes(migrated.read_bytes())

    def act(*words: str, content: str = FILE, **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "settings.yaml").write_text(content, encoding="utf-8")
        command = [sys.executable, "-m", "mlops_provider.cli.main", "settings", "apply", "settings.yaml", *words]
        variables = {"LEDGER_PASSWORD": "hush-4711"} | variables
        return subprocess.run(
            command, env=environment(tmp_path) | variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return act


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__FERNET_KEY": KEY,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "PYTHONPATH": str(Path(__file__).parents[2] / "plugins"),
    }


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "airflow.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_a_first_time_creates_and_a_second_changes_nothing(apply: Apply, tmp_path: Path) -> None:
    first, second = apply(), apply()

    assert lines(first) == CREATED
    assert lines(second) == [line.replace("created", "unchanged") for line in CREATED]
    ((host, port, login, password, extra),) = rows(
        tmp_path, "select host, port, login, password, extra from connection where conn_id = 'mlops_ledger'"
    )
    assert (host, port, login) == ("db.example", 5432, "mlops")
    assert Fernet(KEY).decrypt(str(password).encode()) == b"hush-4711"
    assert json.loads(Fernet(KEY).decrypt(str(extra).encode())) == {"timeout": 5}
    assert rows(tmp_path, "select slots, description from slot_pool where pool = 'training'") == [(1, "one at a time")]
    assert Fernet(KEY).decrypt(str(rows(tmp_path, "select val from variable where key = 'months'")[0][0])) == b"6"
    assert "hush" not in first.stdout + first.stderr + second.stdout + second.stderr


def test_only_what_differs_is_updated_and_nothing_else_is_touched(apply: Apply, tmp_path: Path) -> None:
    lines(apply())
    before = rows(tmp_path, "select * from slot_pool where pool = 'default_pool'")

    changed = apply(content=FILE.replace("pool_slot: 1", "pool_slot: 2"), LEDGER_PASSWORD="other-4711")

    assert lines(changed) == ["connection mlops_ledger updated", "pool training updated", "variable months unchanged"]
    assert rows(tmp_path, "select * from slot_pool where pool = 'default_pool'") == before
    assert "4711" not in changed.stdout + changed.stderr


def test_a_dry_run_says_what_would_be_done_and_does_nothing(apply: Apply, tmp_path: Path) -> None:
    done = apply("--dry-run")

    assert lines(done) == [line.replace("created", "would be created") for line in CREATED]
    assert rows(tmp_path, "select * from connection where conn_id = 'mlops_ledger'") == []
    assert rows(tmp_path, "select * from slot_pool where pool = 'training'") == []


def test_a_typo_or_a_missing_secret_changes_nothing_at_all(apply: Apply, tmp_path: Path) -> None:
    typo = apply(content=FILE.replace("conn_login", "conn_logn"))
    missing = apply(LEDGER_PASSWORD="")

    assert (typo.returncode, missing.returncode) == (1, 1)
    assert "settings.yaml:7: airflow.connections.0.conn_logn: unknown key; did you mean 'conn_login'?" in typo.stderr
    assert "settings.yaml:8" in missing.stderr
    assert "LEDGER_PASSWORD" in missing.stderr
    assert rows(tmp_path, "select * from slot_pool where pool = 'training'") == []


def test_a_database_that_was_never_set_up_is_told_in_words(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "airflow.db").unlink()

    done = apply()

    assert done.returncode == 1
    assert "airflow db migrate" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_sees_what_was_not_applied(apply: Apply, tmp_path: Path) -> None:
    def doctor() -> str:
        command = [sys.executable, "-m", "mlops_provider.cli.main", "doctor"]
        variables = {"LEDGER_PASSWORD": "hush-4711"}
        done = subprocess.run(
            command, env=environment(tmp_path) | variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return done.stdout

    (tmp_path / "airflow_settings.yaml").write_text(FILE)
    before = doctor()
    lines(apply())

    assert "declares: connection mlops_ledger, pool training, variable months" in before
    assert "fix: mlops settings apply" in before
    assert "Airflow has the connections and pools of airflow_settings.yaml" in doctor()

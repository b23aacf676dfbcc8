"""What is wrong in a settings file is said with its line, and never with a secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mlops_provider.cli.settings_file import Declared, load
from mlops_provider.exceptions import SpecError


def read(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> Declared:
    path = folder / "airflow_settings.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environment or {})


def refusal(folder: Path, text: str, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(SpecError) as refused:
        read(folder, text, environment)
    return str(refused.value).replace(f"{folder}/", "")


def test_a_connection_is_read_with_its_secrets_from_the_environment(tmp_path: Path) -> None:
    declared = read(
        tmp_path,
        """
airflow:
  connections:
    - conn_id: ledger
      conn_type: mlops_ledger
      conn_host: ${DB_HOST:-localhost}
      conn_port: ${DB_PORT}
      conn_login: mlops
      conn_password: a$$b-${SECRET}
      conn_extra:
        options: ["${SECRET}", 3]
""",
        {"DB_PORT": "5432", "SECRET": "x: [y"},
    )

    (connection,) = declared.connections
    assert (connection.host, connection.port, connection.login) == ("localhost", 5432, "mlops")
    assert connection.password == "a$b-x: [y"
    assert connection.extra == {"options": ["x: [y", 3]}
    assert "x: [y" not in repr(declared)


def test_an_extra_may_be_json_in_a_text(tmp_path: Path) -> None:
    text = """
airflow:
  connections:
    - {conn_id: a, conn_type: http, conn_extra: '{"token": "${TOKEN}"}'}
"""

    assert read(tmp_path, text, {"TOKEN": "t"}).connections[0].extra == {"token": "t"}


def test_the_empty_entries_of_astros_template_are_left_out(tmp_path: Path) -> None:
    declared = read(
        tmp_path,
        """
airflow:
  connections:
    - conn_id:
      conn_type:
  pools:
    - pool_name:
      pool_slot:
  variables:
""",
    )

    assert declared == Declared((), (), ())


def test_pools_and_variables_are_read(tmp_path: Path) -> None:
    declared = read(
        tmp_path,
        """
airflow:
  pools: [{pool_name: training, pool_slot: 2, pool_include_deferred: true}]
  variables: [{variable_name: months, variable_value: [1, 2]}, {variable_name: flag, variable_value: "${F:-off}"}]
""",
    )

    (pool,) = declared.pools
    assert (pool.name, pool.slots, pool.include_deferred) == ("training", 2, True)
    assert [each.value for each in declared.variables] == ["[1, 2]", "off"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("airflow:\n  conections: []\n", "airflow_settings.yaml:2: airflow.conections: unknown key; did you mean"),
        (
            "airflow:\n  connections:\n    - conn_id: a\n      conn_tpe: http\n",
            "airflow_settings.yaml:4: airflow.connections.0.conn_tpe: unknown key; did you mean 'conn_type'?",
        ),
        (
            "airflow:\n  pools:\n    - pool_name: a\n      pool_slot: many\n",
            "yaml:4: airflow.pools.0.pool_slot: expected",
        ),
        ("airflow:\n  pools:\n    - pool_name: a\n", "airflow_settings.yaml:3: airflow.pools.0.pool_slot: required"),
        ("airflow:\n  variables:\n    - variable_name: a\n", "airflow.variables.0.variable_value: required"),
        ("airflow:\n  connections:\n    - conn_type: a\n", "airflow.connections.0.conn_id: required, but missing."),
        (
            "airflow:\n  connections:\n    - {conn_id: a, conn_type: t}\n    - {conn_id: a, conn_type: t}\n",
            "airflow_settings.yaml:4: airflow.connections.1.conn_id: 'a' is declared twice.",
        ),
        (
            "airflow:\n  connections:\n    - conn_id: a\n      conn_type: t\n      conn_host: ${HOST}\n",
            "airflow_settings.yaml:5: airflow.connections.0.conn_host: environment variable HOST is not set, or empty.",
        ),
        ("airflow:\n  connections:\n    - {conn_id: a, conn_type: t, conn_host: '${HO ST}'}\n", "expected ${NAME}"),
        (
            "airflow:\n  connections:\n    - {conn_id: a, conn_type: t, conn_port: 99999}\n",
            "expected a port, 1 to 65535",
        ),
        ("airflow: [\n", "is not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, text)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = "airflow:\n  connections:\n" + "".join(
        f"    - {{conn_id: c{number}, conn_type: t, conn_host: '${{V{number}}}'}}\n" for number in range(12)
    )

    lines = refusal(tmp_path, text).splitlines()

    assert len(lines) == 11
    assert lines[-1] == "And 2 more."


@pytest.mark.parametrize(
    "line",
    [
        "conn_password: 4711",  # unquoted, so YAML made a number of it
        "conn_port: hush-4711",
        "conn_extra: hush-4711",
        "conn_extra: [4711]",
        "conn_password: {hush: 4711}",
    ],
)
def test_no_message_holds_a_value_of_a_connection(line: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, f"airflow:\n  connections:\n    - conn_id: a\n      conn_type: t\n      {line}\n")

    assert "airflow_settings.yaml:5: " in said
    assert "4711" not in said


def test_the_file_of_this_repository_is_right(tmp_path: Path) -> None:
    names = ("MLOPS_TABLES_URI", "MLOPS_LEDGER_URL", "MLOPS_REGISTRY_URI", "MLOPS_SERVER_URL")

    declared = load(Path(__file__).parents[2] / "airflow_settings.yaml", dict.fromkeys(names, "x"))

    assert {each.conn_id for each in declared.connections} == {
        "mlops_tables",
        "mlops_ledger",
        "mlops_registry",
        "mlops_server",
    }
    assert all(each.conn_type == each.conn_id for each in declared.connections)

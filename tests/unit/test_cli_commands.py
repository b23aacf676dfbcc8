"""One table of commands, two command lines."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_provider.cli import backup, doctor
from mlops_provider.cli import main as entry
from mlops_provider.cli.commands import COMMANDS, Command
from mlops_provider.exceptions import ConfigurationError, NothingToDo

EVERY_COMMAND = [command for each in COMMANDS for command in ([each] if isinstance(each, Command) else each.commands)]


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=lambda command: command.name)
def test_every_command_has_a_function_behind_it(command: Command) -> None:
    assert callable(command.load())


def test_the_parser_knows_where_each_command_is_carried_out() -> None:
    arguments = entry.parser().parse_args(["settings", "apply", "other.yaml", "--dry-run"])

    assert arguments.command.target == "settings:main"
    assert arguments.words == "settings apply"
    assert (arguments.file, arguments.dry_run) == ("other.yaml", True)


def test_a_stage_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        entry.parser().parse_args(["run", "ingestt"])

    assert refused.value.code == 2
    assert "monitor" in capsys.readouterr().err


def test_starting_the_command_loads_neither_airflow_nor_an_ml_library() -> None:
    heavy = ("airflow", "mlflow", "pandas", "sklearn", "evidently", "great_expectations", "sqlalchemy", "httpx", "yaml")
    script = (
        "import sys; from mlops_provider.cli.main import parser; parser();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )

    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"


class _Fails(Command):
    """A command that ends as its name says."""

    def load(self):  # type: ignore[no-untyped-def]
        def act(arguments: argparse.Namespace) -> int:
            raise {"error": ConfigurationError("set X"), "nothing": NothingToDo("same"), "stop": KeyboardInterrupt()}[
                self.name
            ]

        return act


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("error", 1, "mlops up: set X"), ("nothing", 0, "Nothing to do: same"), ("stop", 130, "mlops up: interrupted")],
)
def test_an_end_becomes_an_exit_code_and_a_sentence(
    name: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = entry.run(_Fails(name, "", ""), argparse.Namespace(), "up")

    captured = capsys.readouterr()
    assert found == code
    assert said in captured.out + captured.err
    assert "Traceback" not in captured.err


class _LacksALibrary(Command):
    def load(self):  # type: ignore[no-untyped-def]
        def act(arguments: argparse.Namespace) -> int:
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")

        return act


def test_a_missing_library_is_named_with_the_extra_that_brings_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = _LacksALibrary("serve", "", "", extras=("serving",))

    assert entry.run(command, argparse.Namespace(), "serve") == 1
    assert "pip install 'airflow-provider-mlops[serving]'" in capsys.readouterr().err


def test_an_empty_variable_of_amazons_does_not_reach_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    seen: dict[str, str] = {}

    def look(_arguments: argparse.Namespace) -> int:
        seen.update({name: value for name, value in os.environ.items() if name.startswith("AWS_")})
        return 0

    monkeypatch.setattr(Command, "load", lambda _self: look)
    entry.run(COMMANDS[0], argparse.Namespace(), "look")  # type: ignore[arg-type]

    assert "AWS_ENDPOINT_URL" not in seen
    assert seen["AWS_DEFAULT_REGION"] == "us-east-1"


def test_a_backup_takes_the_database_behind_mlflow_from_mlflows_own_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MLOPS_HOME": str(tmp_path / "home"),
        "MLOPS_LEDGER_URL": "sqlite://",
        "MLOPS_TABLES_URI": str(tmp_path),
        "MLOPS_REGISTRY_URI": "http://mlflow:5000",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="--registry-database"):
        backup.places(None)

    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://mlflow@postgres/mlflow")

    assert backup.places(None).registry_database == "postgresql://mlflow@postgres/mlflow"
    assert backup.places("sqlite:///other.db").registry_database == "sqlite:///other.db"


def test_airflow_gets_the_same_commands() -> None:
    from airflow.cli.cli_config import GroupCommand

    from mlops_provider.cli.airflow_commands import get_commands

    (group,) = get_commands()

    assert isinstance(group, GroupCommand)
    assert [each.name for each in group.subcommands] == [each.name for each in COMMANDS]
    assert [
        command.name for each in group.subcommands if isinstance(each, GroupCommand) for command in each.subcommands
    ]


def test_airflows_parser_takes_them() -> None:
    from airflow.cli.cli_config import DefaultHelpParser
    from airflow.cli.cli_parser import _add_command

    from mlops_provider.cli.airflow_commands import get_commands

    parser = DefaultHelpParser(prog="airflow")
    for command in get_commands():
        _add_command(parser.add_subparsers(), command)
    arguments = parser.parse_args(["mlops", "run", "ingest", "--partition", "2013-01"])

    assert (arguments.stage, arguments.partition) == ("ingest", "2013-01")
    assert callable(arguments.func)


@pytest.mark.parametrize(
    ("airflow", "fastapi", "level"),
    [("3.2.2", "0.165.0", ["fail"]), ("3.2.2", "0.136.3", []), ("3.3.2", "0.165.0", [])],
)
def test_doctor_names_a_fastapi_that_airflow_cannot_run_with(
    airflow: str, fastapi: str, level: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "version", {"apache-airflow-core": airflow, "fastapi": fastapi}.__getitem__)

    assert [finding.level for finding in doctor._airflow_with_fastapi()] == level

"""From a file of examples to a model that answers, without editing a file."""

from __future__ import annotations

import ast
import contextlib
import os
import pty
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from airflow.sdk import DAG

from mlops_provider.adapters.expectations import load_review
from mlops_provider.adapters.validation import load_expectations
from mlops_provider.cli.main import main
from mlops_provider.core.names import Environment, Kind
from mlops_provider.spec import load_spec
from mlops_provider.stores.suite import Stores
from support.orders import orders
from support.stack import free_port

NAME = "orders"
MONTHS = ("2024-03", "2024-04", "2024-05")
ROW = {"amount_eur": 250.0, "vip": 0.0, "age": 40.0, "hour": 12.5, "weekday": 3.0, "days_since_signed_up": 30.0}


def mlops(*words: str | Path) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data file, and the use case that was made of it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    orders().to_csv(folder / "data" / "orders.csv", sep=";", index=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert mlops("init", "--data", "data/orders.csv", "--target", "Returned", "--yes") == 0
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def test_it_writes_functions_declaration_dags_and_tests(here: Path) -> None:
    written = {file.relative_to(here).as_posix() for file in here.rglob("*") if file.is_file()}

    assert {file for file in written if not file.startswith((".", "data/")) and "__pycache__" not in file} == {
        *(f"include/{NAME}/{file}" for file in ("model.yaml", "data.py", "features.py", "model.py", "README.md")),
        f"include/{NAME}/expectations.yaml",
        *(f"dags/{NAME}_{stage}.py" for stage in ("ingest", "score", "monitor", "train", "deploy", "rollback")),
        f"tests/test_{NAME}.py",
    }


def test_the_data_is_named_from_the_project_not_from_the_machine(here: Path) -> None:
    assert 'Path(__file__).parent / "../../data/orders.csv"' in (here / f"include/{NAME}/data.py").read_text()


def test_nothing_is_ever_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / f"include/{NAME}/README.md").write_text("mine")

    assert mlops("init", "--data", "data/orders.csv", "--target", "Returned", "--yes") == 1

    said = capsys.readouterr().err
    assert "13 of 13 files are there" in said
    assert f"include/{NAME}/data.py" in said
    assert (here / f"include/{NAME}/README.md").read_text() == "mine"


def test_without_a_terminal_a_missing_answer_is_an_error_not_a_question(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlops("init", "--data", "data/orders.csv", "--name", "others") == 1

    assert "--target is missing" in capsys.readouterr().err
    assert not (here / "include/others").exists()


def test_at_a_terminal_what_is_missing_is_asked_for(project: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("plugins"))}
    person, terminal = pty.openpty()
    process = subprocess.Popen(
        (sys.executable, "-m", "mlops_provider.cli.main", "init", str(tmp_path), "--owner", "ada"),
        cwd=project, env=environment, stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    # data, target, a name that cannot be, one that can, no protected columns, two days.
    os.write(person, b"data/orders.csv\nReturned\nMy Model\nasked\n\n2\n")

    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal says that nobody writes any more
        while part := os.read(person, 4096):
            shown += part
    assert process.wait(60) == 0, shown.decode()
    os.close(person)
    said = shown.decode()
    assert "Column to predict (--target)" in said
    assert "such as 'my_model'" in said
    assert "--owner" not in said
    spec = load_spec(tmp_path / "include/asked/model.yaml")
    assert (spec.owner, spec.label_lag_days) == ("ada", 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "profit"), "--target: there is no column 'profit' in orders.csv. It has Order ID, Created At"),
        (("--target", "Returned", "--keys", "Amount (EUR)"), "a key is text, a whole number or a time"),
        (("--target", "Returned", "--event-time", "City"), "'City' holds text, no times"),
        (("--target", "Returned", "--time-zone", "Bonn"), "there is no 'Bonn'"),
        (("--target", "Returned", "--label-lag", "soon"), "a whole number of days"),
        (("--target", "City", "--task", "regression"), "holds text, no numbers"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert mlops("init", "--data", "data/orders.csv", "--name", "others", "--yes", *words) == 1

    assert said in capsys.readouterr().err
    assert not (here / "include/others").exists()


def test_only_profiles_that_there_are_are_offered(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mlops("init", "--help")
    assert "--profile {standard,minimal}" in capsys.readouterr().out

    with pytest.raises(SystemExit):
        mlops("init", "--data", "data/orders.csv", "--profile", "gxp")
    assert "'gxp'" in capsys.readouterr().err


def test_the_suite_waits_for_a_review(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / f"include/{NAME}/expectations.yaml"
    severities = {each.type: each.severity for each in load_expectations(path)}

    assert load_review(path) is False
    assert severities["expect_column_values_to_be_of_type"] == "block"
    assert severities["expect_column_values_to_be_unique"] == "quarantine"
    assert severities["expect_column_values_to_be_in_set"] == "warn"

    mlops("doctor")
    assert f"include/{NAME}/expectations.yaml was inferred and is not reviewed" in capsys.readouterr().out


@pytest.mark.slow
def test_its_own_tests_pass_as_they_are(here: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("plugins"))}

    run = subprocess.run(
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"),
        cwd=here, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert run.returncode == 0, run.stdout[-3000:]
    assert "7 passed" in run.stdout


@pytest.fixture
def stores(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stores in the project's folder, named in the environment."""
    for variable in Environment:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(Environment.TABLES_URI, str(here / ".mlops/data"))
    monkeypatch.setenv(Environment.LEDGER_URL, f"sqlite:///{here}/ledger.db")
    monkeypatch.setenv(Environment.REGISTRY_URI, f"sqlite:///{here}/mlflow.db")
    return here


@pytest.fixture
def server(stores: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model server of the project."""
    here, port = stores, free_port()
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv(Environment.SPOOL_DIR, str(here / ".mlops/spool"))
    monkeypatch.setenv(Environment.SERVER_URL, address)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("plugins"))}
    with (here / "server.log").open("wb") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "mlops_provider.cli.main", "serve", "--port", port),
            cwd=here, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, (here / "server.log").read_text()[-3000:]
            try:
                httpx.get(f"{address}/health", timeout=5, trust_env=False)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_the_whole_chain_runs_and_the_model_answers(
    here: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for month in MONTHS:
        assert mlops("run", "all", "--model", f"include/{NAME}/model.yaml", "--partition", month) == 0

    said = capsys.readouterr().out
    assert f"{NAME} now serves version 1" in said
    ledger = Stores.from_environment().ledger
    [first, *_] = ledger.history(Kind.VALIDATION, NAME)
    assert first.payload["reviewed"] is False
    assert ledger.latest(Kind.PERFORMANCE, NAME).payload["rows"] > 0  # type: ignore[union-attr]
    rows = [
        {**ROW, "city": "Bonn", "partition_value": "north"},
        {**ROW, "amount_eur": 5.0, "city": "Ulm", "partition_value": "south"},
    ]
    answer = httpx.post(f"{server}/invocations", json={"dataframe_records": rows}, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    likely, unlikely = answer.json()["predictions"]
    assert likely > unlikely


def test_a_suite_is_inferred_from_what_landed_until_somebody_signed_it(
    stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, suite = stores / f"include/{NAME}/model.yaml", stores / f"include/{NAME}/expectations.yaml"
    mlops("run", "ingest", "--model", model, "--partition", MONTHS[0])

    assert mlops("validate", "infer", model) == 0
    assert "as it landed" in suite.read_text()
    assert "It is not reviewed" in capsys.readouterr().out

    suite.write_text(suite.read_text().replace("reviewed: false", "reviewed: {by: ada, at: 2026-11-23}"))
    assert mlops("validate", "infer", model) == 1
    assert "reviewed by ada on 2026-11-23" in capsys.readouterr().err


def test_a_review_is_signed_with_a_name_and_a_day(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = here / "signed.yaml"
    suite.write_text("reviewed: true\nexpectations:\n- {type: expect_x, severity: warn, meaning: x}\n")

    with pytest.raises(Exception, match=r"signed.yaml:1: reviewed: expected who read it and when"):
        load_review(suite)


def test_what_is_declared_is_what_was_found(here: Path) -> None:
    spec = load_spec(here / f"include/{NAME}/model.yaml")
    declared = yaml.safe_load((here / f"include/{NAME}/model.yaml").read_text())

    assert (spec.keys, spec.event_time, spec.first_partition) == (("order_id",), "created_at", MONTHS[0])
    assert set(declared["features"]["numeric"]) == ROW.keys()
    assert declared["features"]["categorical"] == ["city", "partition_value"]


def test_the_minimal_profile_gates_and_monitors_predictions_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = orders()
    refund = shop["refund"].to_numpy()
    shop = shop.assign(Returned=(shop["Returned"] == "Y").astype(int), new=refund, old=-shop["age"]).drop(
        columns="refund"
    )
    shop.to_parquet("predictions.parquet")
    words = ("--profile", "minimal", "--name", "returns", "--data", "predictions.parquet", "--target", "Returned")

    assert mlops("init", *words, "--prediction", "new", "--champion-prediction", "old") == 0

    assert "made by a model of yours" in capsys.readouterr().out
    assert sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.py")) == [
        "dags/returns_gate.py",
        "dags/returns_monitor.py",
        "tests/test_returns.py",
    ]
    gate, drift = (operator_of(tmp_path / f"dags/returns_{dag}.py") for dag in ("gate", "monitor"))
    assert (gate.target, gate.prediction, gate.champion_prediction) == ("Returned", "new", "old")
    assert gate.limits[0]["metric"] == "roc_auc"
    assert gate.dag.params["candidate"] == str(tmp_path / "predictions.parquet")
    assert (drift.numeric, drift.categorical) == (["Amount (EUR)", "age"], ["VIP?", "City", "partition"])


def operator_of(file: Path) -> Any:
    """The only task of a DAG file."""
    found: list[DAG] = []
    with pytest.MonkeyPatch.context() as patched:
        enter = DAG.__enter__
        patched.setattr(DAG, "__enter__", lambda dag: found.append(dag) or enter(dag))
        runpy.run_path(str(file))
    [task] = found[0].tasks
    return task


def test_predictions_in_a_csv_file_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mlops("init", "--profile", "minimal", "--data", "data/orders.csv", "--target", "Returned", "--yes") == 1

    assert "write it as Parquet" in capsys.readouterr().err


def test_the_code_is_formatted(here: Path) -> None:
    for file in [*here.glob("include/*/*.py"), *here.glob("dags/*.py"), *here.glob("tests/*.py")]:
        ast.parse(file.read_text())
    run = subprocess.run(
        (sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", "--check", "."),
        cwd=here, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert run.returncode == 0, run.stdout

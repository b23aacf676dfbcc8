"""docs/adopt.md in the environment of the tests: its files saved, its DAGs run; `make compat` does it literally."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compat import material
from mlops_provider.stores.registry_api import OLDEST_TESTED
from support.pages import blocks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adopt.md"
EXAMPLE = ROOT / "plugins" / "mlops_provider" / "example_dags" / "example_mlops_gate.py"
RUN = ("first_gate", EXAMPLE.stem, "gate_elsewhere", "first_drift_check", "first_validation", "first_decision")
"""Every DAG of the page but the one that needs an MLflow server."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each DAG of the page returned."""
    folder = tmp_path_factory.mktemp("adopt")
    for block in blocks(PAGE):
        if block.path:
            place = folder / block.path
            place.parent.mkdir(exist_ok=True)
            place.write_text(block.text, encoding="utf-8")
    shutil.copy(EXAMPLE, folder / "dags")
    variables = {
        **os.environ,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW_CONN_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(folder / "warehouse.db")}),
        "AIRFLOW_CONN_MLOPS_LEDGER": json.dumps({"conn_type": "mlops_ledger", "host": f"sqlite:///{folder}/ledger.db"}),
        "COMPAT_DAGS": ",".join(RUN),
        "PYTHONPATH": str(ROOT / "plugins"),
        "TMPDIR": str(folder),
    }

    def python(*words: str, **more: str) -> str:
        run = subprocess.run(
            [sys.executable, *words], cwd=folder, env=variables | more, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
        return run.stdout

    python("make_tables.py")
    python("-m", "airflow", "db", "migrate")
    with material.s3(folder, "my-bucket") as address:
        said = python(
            str(ROOT / "tests" / "compat" / "inside.py"),
            "dag_runs",
            AIRFLOW_CONN_AWS_DEFAULT=material.aws_connection(address),
        )
    runs: dict[str, Any] = json.loads(json.loads(said.splitlines()[-1])["dag_runs"]["said"])
    return runs


def test_every_dag_of_the_page_is_run_by_it() -> None:
    files = {Path(block.path).stem for block in blocks(PAGE) if block.path.startswith("dags/")}
    commands = "\n".join(block.text for block in blocks(PAGE) if block.language == "bash")

    assert files | {EXAMPLE.stem} == {*RUN, "first_version"}
    assert all(f"airflow dags test {name}" in commands for name in (*RUN, "first_version"))


def test_the_page_names_the_oldest_mlflow_that_make_compat_tries() -> None:
    tried = re.findall(r'"mlflow==([\d.]+)"', (ROOT / "tests" / "compat" / "run.py").read_text(encoding="utf-8"))

    assert tried == [OLDEST_TESTED]
    assert f"servers of MLflow {OLDEST_TESTED}, the oldest" in PAGE.read_text(encoding="utf-8")


def test_every_run_of_the_page_succeeds(done: dict[str, Any]) -> None:
    assert {name: run["state"] for name, run in done.items()} == dict.fromkeys(RUN, "success")


def test_the_page_shows_what_its_tasks_say(done: dict[str, Any]) -> None:
    shown = [" ".join(block.text.split()) for block in blocks(PAGE) if block.language == "text"]

    gate, drift = done["first_gate"]["returned"]["gate"], done["first_drift_check"]["returned"]["drift"]

    assert shown == [gate["summary"], " ".join(drift["reasons"])]


def test_what_follows_a_passed_gate_and_an_alarm_runs(done: dict[str, Any]) -> None:
    assert done["first_gate"]["returned"]["use_the_new_model"] == "The candidate passed."
    assert done[EXAMPLE.stem]["returned"]["use_the_candidate"] == "The candidate passed."
    assert done["first_drift_check"]["tasks"]["tell_somebody"] == "success"


def test_with_a_ledger_every_verdict_has_its_record(done: dict[str, Any]) -> None:
    verdicts = [
        result
        for name in ("first_gate", "gate_elsewhere", "first_drift_check", "first_validation")
        for result in done[name]["returned"].values()
        if isinstance(result, dict)
    ]

    assert len(verdicts) >= 4
    assert all(verdict["record"] for verdict in verdicts)
    assert done["first_decision"]["returned"]["record"]

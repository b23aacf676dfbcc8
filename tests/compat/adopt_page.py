"""docs/adopt.md, done literally: its files saved, its commands run, in a stock Airflow."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import material
from environments import ROOT, Environment, stock

from support.pages import blocks

if TYPE_CHECKING:
    from run import Table

PAGE = ROOT / "docs" / "adopt.md"
LIMIT_SECONDS = 600
"""From `pip install` to a first verdict."""


def follow(
    label: str,
    airflow: str,
    python: str,
    wheel: Path,
    folder: Path,
    addresses: dict[str, str],
    table: Table,
    again: str,
) -> None:
    """Do what the page says, block by block; time runs from its first command to its first verdict."""
    environment = Environment(folder / f"{airflow}-page-{Path(python).parent.parent.name}")
    work = environment.folder / "work"

    def prepared() -> str:
        environment.create(python)
        environment.install(*stock(airflow), "apache-airflow-providers-sqlite")
        environment.run("migrate", [str(environment.bin / "airflow"), "db", "migrate"])
        work.mkdir()
        return "a stock Airflow"

    if not table.check(label, "before the page", prepared, again):
        return
    more = given(environment, wheel, folder, addresses)
    began, verdicts = time.monotonic(), 0
    for number, block in enumerate(blocks(PAGE), 1):
        if block.path:
            place = work / block.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text)
            continue
        if block.language != "bash":
            continue

        def command(text: str = block.text, number: int = number) -> str:
            script = f"set -euo pipefail\ncd {work}\n{text}"
            said = environment.run(f"block-{number}", ["bash", "-c", script], more)
            failed = [line for line in said.splitlines() if "state=failed" in line]
            assert not failed, failed[-1]
            return f"{text.strip().splitlines()[-1][:60]}"

        if not table.check(label, f"block {number}", command, again):
            return
        verdicts += "airflow dags test" in block.text
        if verdicts == 1 and "airflow dags test" in block.text:
            table.check(label, "first verdict", functools.partial(in_time, time.monotonic() - began), again)
    shutil.rmtree(environment.folder / "venv", ignore_errors=True)


def given(environment: Environment, wheel: Path, folder: Path, addresses: dict[str, str]) -> dict[str, str]:
    """What a reader has of their own: the wheel at their index, connections to S3 and a database, an MLflow server."""
    links = " ".join(filter(None, (os.environ.get("PIP_FIND_LINKS"), str(wheel.parent))))
    return {
        "AIRFLOW_HOME": str(environment.home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(environment.folder / "work" / "dags"),
        "PIP_FIND_LINKS": links,
        "AIRFLOW_CONN_AWS_DEFAULT": material.aws_connection(addresses["s3"]),
        "AIRFLOW_CONN_WAREHOUSE": json.dumps(
            {"conn_type": "sqlite", "host": str(environment.folder / "work" / "warehouse.db")}
        ),
        "MLFLOW_TRACKING_URI": addresses["newest"],
        "SOURCE": addresses["newest_source"],
    }


def in_time(seconds: float) -> str:
    """Whether the first verdict came soon enough."""
    assert seconds < LIMIT_SECONDS, f"The first verdict took {seconds:.0f} s; {LIMIT_SECONDS} are allowed."
    return f"{seconds:.0f} s after `pip install` began"

"""docs/adopt.md, done literally: its files saved, its commands run, in a stock Airflow."""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING

import material
from environments import ROOT

from support.pages import blocks

if TYPE_CHECKING:
    from environments import Environment
    from run import Cell

PAGE = ROOT / "docs" / "adopt.md"
LIMIT_SECONDS = 600
"""From `pip install` to a first verdict."""


def follow(cell: Cell, base: Environment) -> None:
    """Do what the page says, block by block; time runs from its first command to its first verdict."""
    environment, work = cell.environment, cell.environment.folder / "work"
    environment.begin_as(base)
    work.mkdir()
    more = given(cell)
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

        if not cell.check(f"block {number}", command):
            return
        verdicts += "airflow dags test" in block.text
        if verdicts == 1 and "airflow dags test" in block.text:
            cell.check("first verdict", functools.partial(in_time, time.monotonic() - began))


def given(cell: Cell) -> dict[str, str]:
    """What a reader has of their own: the wheel at their index, a connection to S3, an MLflow server."""
    environment, addresses = cell.environment, cell.given.addresses
    links = " ".join(filter(None, (os.environ.get("PIP_FIND_LINKS"), str(cell.given.wheel.parent))))
    return {
        "AIRFLOW_HOME": str(environment.home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(environment.folder / "work" / "dags"),
        "PIP_FIND_LINKS": links,
        "AIRFLOW_CONN_AWS_DEFAULT": material.aws_connection(addresses["s3"]),
        "MLFLOW_TRACKING_URI": addresses["newest"],
        "SOURCE": addresses["newest_source"],
    }


def in_time(seconds: float) -> str:
    """Whether the first verdict came soon enough."""
    assert seconds < LIMIT_SECONDS, f"The first verdict took {seconds:.0f} s; {LIMIT_SECONDS} are allowed."
    return f"{seconds:.0f} s after `pip install` began"

"""Speak with a running stack."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from mlops_provider.stores.suite import Stores

ROOT = Path(__file__).resolve().parents[2]
MODEL = "flight_delays"
DONE = {"success", "failed"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def month_of_flights(month: str) -> bytes:
    """What an airport delivers for a month, as Parquet."""
    from mlops_provider.spec import load_spec

    frame = load_spec(ROOT / "include/flight_delays/model.yaml").function("delivered")(month)
    return bytes(frame.to_parquet())


@dataclass(frozen=True)
class RunningStack:
    """
    What a test needs to speak with the stack.

    :param s3_url: Address of its S3; empty if its tables are in a folder.
    """

    home: Path
    project: Path
    environment: dict[str, str]
    api: httpx.Client
    stores: Stores
    s3_url: str = ""

    @property
    def airflow(self) -> str:
        """Address of Airflow's web server."""
        return f"http://127.0.0.1:{self.environment['MLOPS_AIRFLOW_PORT']}"

    def mlops(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlops_provider.cli.main", *arguments],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, dag_id: str, run_id: str, **body: Any) -> httpx.Response:
        return self.api.post(f"/dags/{dag_id}/dagRuns", json={"dag_run_id": run_id, "logical_date": None, **body})

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        answer = self.api.get(f"/dags/{dag_id}/dagRuns/{run_id}")
        answer.raise_for_status()
        return dict(answer.json())

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(
            self.api.get(f"/dags/{dag_id}/dagRuns", params={"limit": 100}).raise_for_status().json()["dag_runs"]
        )

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        found = self.api.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances").raise_for_status().json()
        return {task["task_id"]: task for task in found["task_instances"]}

    def mapped(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        """The instances of a mapped task, in the order of their map index."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/listMapped"
        return list(self.api.get(path, params={"limit": 100}).raise_for_status().json()["task_instances"])

    def finished(self, dag_id: str, run_id: str, timeout: float = 180) -> str:
        """Wait for the end of a run that may not exist yet; give its state."""
        found: dict[str, Any] = {}

        def ended() -> bool:
            found.update(next((run for run in self.runs(dag_id) if run["dag_run_id"] == run_id), {}))
            return found.get("state") in DONE

        wait_until(ended, f"{dag_id} {run_id} to end", timeout)
        return str(found["state"])

    def ingested(self, month: str, model: str = MODEL) -> None:
        """Make sure that a month's features are there."""
        dag_id = f"{model}_ingest"
        found = [run for run in self.runs(dag_id) if run["partition_key"] == month]
        if not any(run["state"] == "success" for run in found):
            self.start(dag_id, f"needed-{month}", partition_key=month).raise_for_status()
            assert self.finished(dag_id, f"needed-{month}") == "success"

    def at_rest(self, model: str = MODEL) -> None:
        """
        Wait until nothing decides on a model's traffic: no monitor, training or deployment of it is under way.

        A candidate that is judged meanwhile meets a champion that is about to change, and is refused for that later.
        """
        dags = [f"{model}_{name}" for name in ("monitor", "train", "deploy")]

        def ended() -> bool:
            return all(run["state"] in DONE for dag_id in dags for run in self.runs(dag_id))

        wait_until(ended, f"what moves the traffic of {model} to end", 300)

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}"
        return json.dumps(self.api.get(path).raise_for_status().json())


def wait_until(condition: Any, what: str, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"Waited {timeout:.0f} s for {what}.")
        time.sleep(0.2)

"""Speak with a running cluster, and break parts of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
from boto3.session import Session

from mlops_provider.cli.cluster import started_before
from mlops_provider.cli.home import Home
from mlops_provider.cli.processes import Running, members, recorded
from mlops_provider.core.names import Table
from mlops_provider.stores.s3 import S3
from mlops_provider.stores.suite import Stores
from support.stack import MODEL, RunningStack, wait_until

PORTS = {
    "airflow": "MLOPS_AIRFLOW_PORT",
    "mlflow": "MLOPS_MLFLOW_PORT",
    "server": "MLOPS_SERVER_PORT",
    "evidently": "MLOPS_EVIDENTLY_PORT",
    "s3": "MLOPS_MOTO_PORT",
}
KEYS = ["flight_date", "carrier", "flight", "origin"]


@dataclass(frozen=True)
class RunningCluster:
    """What a test needs to speak with the cluster."""

    home: Path
    project: Path
    environment: dict[str, str]

    def mlops(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlops_provider.cli.main", *arguments],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def up(self) -> subprocess.CompletedProcess[str]:
        """Start what does not run: at first everything, later what a test has killed."""
        return self.mlops("up", "--cluster", "--timeout", "480")

    def restart(self) -> None:
        """What Docker's restart policy does after a service died."""
        up = self.up()
        assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]

    @cached_property
    def settings(self) -> dict[str, str]:
        return dict(json.loads((self.home / "run/stack.json").read_text())["settings"])

    @cached_property
    def stores(self) -> Stores:
        return Stores(
            tables_uri=self.settings["MLOPS_TABLES_URI"],
            registry_uri=self.settings["MLOPS_REGISTRY_URI"],
            ledger_url=self.settings["MLOPS_LEDGER_URL"],
            s3=self.s3,
        )

    @cached_property
    def s3(self) -> S3:
        """The cluster's S3, as programs outside Airflow know it."""
        session = Session(
            self.settings["AWS_ACCESS_KEY_ID"],
            self.settings["AWS_SECRET_ACCESS_KEY"],
            region_name=self.settings["AWS_DEFAULT_REGION"],
        )
        return S3(session, endpoint_url=self.settings["AWS_ENDPOINT_URL"])

    @cached_property
    def airflow(self) -> RunningStack:
        """Airflow's REST API, logged in."""
        address = f"http://127.0.0.1:{self.environment['MLOPS_AIRFLOW_PORT']}"
        login = {
            "username": "admin",
            "password": json.loads((self.home / "secrets.json").read_text())["admin_password"],
        }
        token = httpx.post(f"{address}/auth/token", json=login, timeout=60, trust_env=False).raise_for_status().json()
        api = httpx.Client(
            base_url=f"{address}/api/v2",
            headers={"Authorization": f"Bearer {token['access_token']}"},
            timeout=60,
            trust_env=False,
            transport=httpx.HTTPTransport(retries=5),
        )
        return RunningStack(self.home, self.project, self.environment, api, self.stores)

    def close(self) -> None:
        if "airflow" in self.__dict__:
            self.airflow.api.close()
        if "stores" in self.__dict__:
            self.stores.ledger.close()

    def part(self, name: str) -> Running:
        return next(running for running in recorded(self.home / "run") if running.name == name)

    def kill(self, name: str) -> None:
        """End a service's first process with SIGKILL."""
        os.kill(self.part(name).pid, signal.SIGKILL)
        wait_until(lambda: not self.part(name).alive(), f"{name} to be gone", 10)

    def kill_all_of(self, name: str) -> None:
        """End every process of a service with SIGKILL, as when its container or machine goes."""
        part = self.part(name)
        for process in [psutil.Process(part.pid), *members([part])[name]]:
            if process.is_running():
                process.kill()
        wait_until(lambda: not self.part(name).alive(), f"{name} to be gone", 10)

    def worker_of(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Wait for a task to run; give the worker that has it."""
        found: set[str] = set()

        def running() -> bool:
            task = self.airflow.tasks(dag_id, run_id).get(task_id, {})
            found.update(self.workers_with([task] if task.get("state") == "running" else []))
            return bool(found)

        wait_until(running, f"{task_id} to run", 180)
        return found.pop()

    def workers_of_all(self, dag_id: str, run_id: str, task_id: str, *, at_least: int) -> set[str]:
        """Wait until mapped tasks run on several workers at once; give those."""
        found: set[str] = set()

        def running() -> bool:
            tasks = self.airflow.mapped(dag_id, run_id, task_id)
            found.clear()
            found.update(self.workers_with([task for task in tasks if task["state"] == "running"]))
            return len(found) >= at_least

        wait_until(running, f"{task_id} to run on {at_least} workers at once", 180)
        return found

    def workers_with(self, tasks: list[dict[str, Any]]) -> set[str]:
        """Workers that have a process of one of the tasks."""
        workers = [part for part in recorded(self.home / "run") if part.name.startswith("worker")] if tasks else []
        lines = {name: [" ".join(map(str, _command_line(each))) for each in processes] for name, processes in
                 members(workers).items()}  # fmt: skip
        return {name for name, found in lines.items() for line in found for task in tasks if task["id"] in line}

    def processes_of(self, task: dict[str, Any]) -> list[int]:
        """IDs of the processes that do a task's work; a worker that did it keeps the name of its last task."""
        title = f"airflow worker -- {task['id']}"
        return [each.pid for each in psutil.process_iter() if title in " ".join(map(str, _command_line(each)))]

    def redis(self, *words: str) -> str:
        """Say something to the broker."""
        started = started_before(Home(self.home, self.project))
        environment = dict(started.instances["redis"].process.environment)
        command = ("redis-cli", "-p", str(started.ports["redis:6379"]), *words)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def predict(self, rows: list[dict[str, Any]]) -> httpx.Response:
        address = f"http://127.0.0.1:{self.environment['MLOPS_SERVER_PORT']}/models/{MODEL}/invocations"
        return httpx.post(address, json={"dataframe_records": rows}, timeout=30, trust_env=False)

    def assert_nothing_lost_or_doubled(self, month: str) -> None:
        """A month's rows are there once, its steps are recorded once per run, and the chain of records holds."""
        tables, ledger = self.stores.tables, self.stores.ledger
        counts = {}
        for table in (Table.CLEAN, Table.FEATURES):
            frame = tables.read(tables.uri(MODEL, table), partitions=[month], columns=KEYS)
            assert not frame.duplicated(KEYS).any(), f"{table} holds a flight twice"
            counts[table] = len(frame)
        assert counts[Table.CLEAN] == counts[Table.FEATURES] > 20_000
        assert ledger.verify() is None
        generations = [traffic.generation for traffic in ledger.traffic_history(MODEL)]
        assert generations == list(range(1, len(generations) + 1))
        registered = [version.version for version in self.stores.registry.versions(MODEL)]
        assert len(registered) == len(set(registered)) == len(ledger.history("registration", MODEL))


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []

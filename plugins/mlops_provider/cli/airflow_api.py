"""Airflow's public REST API, version 2, as far as ``mlops replay`` needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError

FINISHED = frozenset({"success", "failed"})
FAILED_TASKS = frozenset({"failed", "upstream_failed"})


@dataclass(frozen=True, slots=True)
class DagRun:
    """A run; *state* is Airflow's word for it."""

    dag_id: str
    run_id: str
    state: str
    partition_key: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state in FINISHED


@dataclass(frozen=True, slots=True)
class TaskTry:
    """The newest try of a task of a run."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    state: str | None
    number: int


class AirflowApi:
    """
    A logged-in client; logs in when it has to.

    :param url: Address of the API server.
    :param user: Name to log in with.
    :param password: Password to log in with.
    :param timeout: Longest wait for one answer, in seconds.
    :param transport: What carries the requests; tests put their own here.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str,
        password: str,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._client = httpx.Client(base_url=url, timeout=timeout, trust_env=False, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def trigger(
        self, dag_id: str, run_id: str, *, partition_key: str | None = None, conf: Mapping[str, Any] | None = None
    ) -> DagRun:
        """Start a run; if there is one under this ID already, give that one."""
        body = {
            "dag_run_id": run_id,
            "logical_date": None,
            "partition_key": partition_key,
            "conf": dict(conf or {}),
        }
        response = self._send("POST", f"/dags/{dag_id}/dagRuns", json=body, accepted={409})
        if response.status_code == 409:
            run = self.run(dag_id, run_id)
            assert run is not None
            return run
        return _run(response.json())

    def run(self, dag_id: str, run_id: str) -> DagRun | None:
        """The run with this ID, if there is one."""
        response = self._send("GET", f"/dags/{dag_id}/dagRuns/{_path(run_id)}", accepted={404})
        return None if response.status_code == 404 else _run(response.json())

    def runs_of(self, dag_id: str, partition_key: str) -> list[DagRun]:
        """The runs of one partition, newest first."""
        query = {"partition_key_pattern": partition_key, "order_by": "-run_after", "limit": 100}
        found = self._send("GET", f"/dags/{dag_id}/dagRuns", params=query).json()["dag_runs"]
        return [run for run in map(_run, found) if run.partition_key == partition_key]

    def clear_failed(self, run: DagRun) -> None:
        """Let what failed in a run be tried again."""
        body = {"dry_run": False, "only_failed": True}
        self._send("POST", f"/dags/{run.dag_id}/dagRuns/{_path(run.run_id)}/clear", json=body)

    def tasks(self, run: DagRun) -> list[TaskTry]:
        """The newest try of each task of a run."""
        path = f"/dags/{run.dag_id}/dagRuns/{_path(run.run_id)}/taskInstances"
        return [
            TaskTry(
                dag_id=run.dag_id,
                run_id=run.run_id,
                task_id=each["task_id"],
                map_index=each["map_index"],
                state=each["state"],
                number=each["try_number"],
            )
            for each in self._send("GET", path, params={"limit": 100}).json()["task_instances"]
        ]

    def log(self, task: TaskTry) -> tuple[str, list[str]]:
        """
        The log of a try.

        :return: Where it lies, and its lines.
        """
        path = (
            f"/dags/{task.dag_id}/dagRuns/{_path(task.run_id)}/taskInstances/{task.task_id}/logs/{max(task.number, 1)}"
        )
        query = {"map_index": task.map_index, "full_content": True}
        content = self._send("GET", path, params=query, accepted={404}).json().get("content") or []
        entries = [entry if isinstance(entry, dict) else {"event": str(entry)} for entry in content]
        place = next((entry["event"] for entry in entries if str(entry.get("event", "")).endswith(".log")), "")
        lines = [line for entry in entries for line in _log_lines(entry)]
        return place, [line for line in lines if line and line != place]

    def known_dags(self) -> dict[str, bool]:
        """DAG IDs, and whether each is paused."""
        found = self._send("GET", "/dags", params={"limit": 100}).json()["dags"]
        return {dag["dag_id"]: dag["is_paused"] for dag in found}

    def unpause(self, dag_id: str) -> None:
        """Let the DAG's runs start."""
        self._send("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def import_errors(self) -> list[str]:
        """For each DAG file that does not load: its name and the last line of what Python said."""
        found = self._send("GET", "/importErrors", params={"limit": 100}).json()["import_errors"]
        return [f"{each['filename']}: {each['stack_trace'].strip().splitlines()[-1]}" for each in found]

    def _send(self, method: str, path: str, *, accepted: set[int] | None = None, **options: Any) -> httpx.Response:
        if "Authorization" not in self._client.headers:
            self._log_in()
        response = self._reach(method, f"/api/v2{path}", **options)
        if response.status_code == 401:
            self._log_in()
            response = self._reach(method, f"/api/v2{path}", **options)
        if response.is_success or response.status_code in (accepted or ()):
            return response
        said = f"{method} {path}: {response.status_code} {_detail(response)}"
        if response.status_code >= 500:
            raise StoreUnavailableError(f"Airflow at {self.url} failed: {said}. See the log of its API server.")
        raise ConfigurationError(f"Airflow at {self.url} refused: {said}")

    def _log_in(self) -> None:
        self._client.headers.pop("Authorization", None)
        response = self._reach("POST", "/auth/token", json=self._login)
        if not response.is_success:
            raise ConfigurationError(
                f"Airflow at {self.url} does not accept user {self._login['username']!r} with the password at hand."
            )
        self._client.headers["Authorization"] = f"Bearer {response.json()['access_token']}"

    def _reach(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise StoreUnavailableError(
                f"Airflow does not answer at {self.url} ({type(error).__name__}). Is the stack up? `mlops up`."
            ) from error


def _run(answer: Mapping[str, Any]) -> DagRun:
    return DagRun(answer["dag_id"], answer["dag_run_id"], answer["state"], answer.get("partition_key"))


def _path(text: str) -> str:
    return quote(text, safe="")


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]


def _log_lines(entry: Mapping[str, Any]) -> list[str]:
    """One entry of a structured log as text; of an error, what was raised last and where it came from first."""
    event = str(entry.get("event", ""))
    lines = [] if event.startswith("::") else event.splitlines()
    if errors := entry.get("error_detail"):
        outer, root = errors[0], errors[-1]
        frames = (root.get("frames") or [])[-3:]
        lines += [f"  {frame.get('filename')}:{frame.get('lineno')} in {frame.get('name')}" for frame in frames]
        lines.append(f"{root.get('exc_type')}: {outer.get('exc_value')}")
    return lines

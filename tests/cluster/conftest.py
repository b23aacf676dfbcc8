"""The production topology: every service of docker-compose.yaml, started on this machine by `mlops up --cluster`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_provider.cli.native import free_ports
from mlops_provider.core.names import Table
from mlops_provider.spec import load_spec
from support.cluster import PORTS, RunningCluster
from support.stack import MODEL, ROOT
from support.tiny import ANY_MODEL_PASSES

HERE = Path(__file__).parent


CHANGED: dict[str, dict[str, Any]] = {
    "in_chunks": {"chunk_rows": 8192, "look_back_hours": 36},
    "slowly": {
        "gate": ANY_MODEL_PASSES,
        "rollout": {
            "strategy": "canary",
            "steps": [10, 50, 100],
            "soak_seconds": 12,
            "guards": {"errors": {"maximum": 0.02, "minimum_requests": 20}},
            "wait_at_most_seconds": 120,
            "look_seconds": 6,
        },
    },
}
"""Copies of the flights' use case beside the DAGs of the tests, and what each declares otherwise."""


def make_project(folder: Path) -> Path:
    """A project with the suite's own DAGs, and those of the tests."""
    project = folder / "project"
    for name, changes in CHANGED.items():
        copy = project / "dags" / name
        shutil.copytree(ROOT / "include/flight_delays", copy, ignore=shutil.ignore_patterns("__pycache__"))
        declaration = yaml.safe_load((copy / "model.yaml").read_text()) | changes
        if name == "in_chunks":
            declaration["resources"] |= {"build_features": {"queue": "heavy"}}
        (copy / "model.yaml").write_text(yaml.safe_dump(declaration))
    (project / "dags/.airflowignore").write_text("".join(f"{name}\n" for name in CHANGED))
    for file in [*(ROOT / "dags").glob("*.py"), *(HERE / "dags").glob("*.py")]:
        (project / "dags" / file.name).symlink_to(file)
    for name in ("include", "airflow_settings.yaml", "docker-compose.yaml", "Dockerfile", ".env.example"):
        (project / name).symlink_to(ROOT / name)
    return project


@pytest.fixture(scope="session")
def cluster() -> Iterator[RunningCluster]:
    """A cluster of the tests' own; or one whose folder holds ``project`` and ``home`` and is up, to try a test on."""
    if there := os.environ.get("MLOPS_TEST_CLUSTER"):
        home, project = Path(there, "home"), Path(there, "project")
        ports = json.loads((home / "run/stack.json").read_text())["ports"]
        chosen = {PORTS[name]: str(port) for name, port in ports.items()}
        running = RunningCluster(home, project, dict(os.environ) | chosen | {"MLOPS_HOME": str(home)})
        yield running
        running.close()
        return
    # Closed to others, as a clone of root's may be: Postgres does not run as root, and its user has to reach its data.
    folder = Path(tempfile.mkdtemp(prefix="mlops-cluster-"))
    project = make_project(folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
    environment |= dict(zip(PORTS.values(), map(str, free_ports(len(PORTS))), strict=True))
    environment |= {
        "MLOPS_HOME": str(folder / "home"),
        "MLOPS_QUEUES": "default,heavy",
        "MLOPS_QUEUED_TIMEOUT": "60",
    }
    running = RunningCluster(folder / "home", project, environment)
    try:
        up = running.up()
        assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
        yield running
    finally:
        down = subprocess.run(
            [sys.executable, "-m", "mlops_provider.cli.main", "down"],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        running.close()
        if keep := os.environ.get("MLOPS_TEST_KEEP"):
            shutil.copytree(folder / "home/logs", keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        assert down.returncode == 0, down.stderr


@pytest.fixture(scope="session")
def replayed(cluster: RunningCluster) -> str:
    """Two months went through; what the replay printed."""
    run = cluster.mlops("replay", "--months", "2", "--timeout", "600")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


@pytest.fixture(scope="session")
def flights(cluster: RunningCluster, replayed: str) -> list[dict[str, Any]]:
    """Rows that the server can answer."""
    tables = cluster.stores.tables
    columns = load_spec(ROOT / "include/flight_delays/model.yaml").feature_columns
    frame = tables.read(tables.uri(MODEL, Table.FEATURES), partitions=["2013-02"], columns=columns)
    return [{str(name): value for name, value in row.items()} for row in frame.dropna().head(4).to_dict("records")]

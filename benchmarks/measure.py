"""What all benchmarks share: repeated timing, the machine's description, a private stack."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


def machine() -> str:
    """Say what ran this."""
    libraries = ("apache-airflow", "mlflow", "evidently", "great-expectations", "scikit-learn", "pandas", "deltalake")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def seconds(work: Callable[[], object], *, runs: int, warm_up: int = 1) -> list[float]:
    """Time *work* several times, after runs that do not count."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times


def figure(name: str, times: list[float], target: str = "") -> None:
    """Print median, minimum and maximum of *times*, in seconds."""
    wanted = f"   target {target}" if target else ""
    print(f"{name:<52} {median(times):7.2f} s  ({min(times):.2f} to {max(times):.2f}, {len(times)} runs){wanted}")


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def stack(dags: Path, settings: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """
    Start a private stack over *dags* and stop it afterwards.

    :return: Its home and the environment its commands need.
    """
    place = Path(tempfile.mkdtemp(prefix="mlops-bench-"))
    (place / "plugins").mkdir()
    (place / "include").symlink_to(ROOT / "include")
    shutil.copytree(dags, place / "dags")
    names = ("MLOPS_AIRFLOW_PORT", "MLOPS_MLFLOW_PORT", "MLOPS_SERVER_PORT", "MLOPS_EVIDENTLY_PORT")
    environment = os.environ | {name: str(free_port()) for name in names} | dict(settings)
    environment |= {"MLOPS_HOME": str(place / "home"), "PYTHONPYCACHEPREFIX": str(place / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = (sys.executable, "-m", "mlops_provider.cli.main")
    try:
        subprocess.run([*command, "up"], cwd=place, env=environment, check=True, stdout=sys.stderr)
        yield place / "home", environment
    finally:
        subprocess.run([*command, "down"], cwd=place, env=environment, check=True, stdout=sys.stderr)
        shutil.rmtree(place)

"""What all benchmarks share: repeated timing, the machine's description, a private stack."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

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


def peak_of(work: Callable[[], object], *, tidy: bool = True) -> dict[str, Any]:
    """
    Run *work* once.

    :param tidy: Collect garbage before, which takes half a second in a process with all our libraries.
    :return: ``seconds``, ``cpu`` seconds of all threads, ``result``, ``peak`` memory in MB, and ``megabytes`` of it
        that were not there before.
    """
    if tidy:
        gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    began, cpu = time.perf_counter(), time.process_time()
    result = work()
    took, cpu, peak = time.perf_counter() - began, time.process_time() - cpu, _memory("VmHWM")
    return {"seconds": took, "cpu": cpu, "megabytes": peak - before, "peak": peak, "result": result}


def load() -> str:
    """Say how busy the machine is: figures of a machine that others use mean little."""
    return f"load average {', '.join(f'{each:.1f}' for each in os.getloadavg())}"


def target(name: str, value: float, limit: float, *, at_least: bool = False) -> None:
    """Print a figure beside its target, and whether it is met."""
    met = value >= limit if at_least else value <= limit
    bound = "at least" if at_least else "at most"
    print(f"{name:<60} {value:8.2f}   target {bound} {limit:g}: {'met' if met else 'NOT MET'}")


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call *function* in a fresh process, which no earlier work has left memory in."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _memory(name: str) -> float:
    """A figure of ``/proc/self/status`` in MB."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


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

"""
Our model server beside a floor and beside its peers: one process on one core, 64 connections, one row per request.

Ours has everything on: prediction log, a split between two versions, a token. The floor parses, predicts with the same
ONNX model and answers, and does nothing else. `overload` asks ours for ten times as much, each caller waiting 250 ms.
The peers batch as their documentation advises, in environments of their own that this makes; each serves the pipeline
and the same ONNX model, without a log or a token.

`SERVING_SECONDS=3` is a quick look; `SERVING_ONLY=ours-onnx,floor` measures only these; `SERVING_FOLDER` keeps models
and environments for the next time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from measure import free_port, machine

HERE = Path(__file__).resolve().parent / "serving"
sys.path.insert(0, str(HERE))
TOKEN = "only-for-this-benchmark"
CONNECTIONS = int(os.environ.get("SERVING_CONNECTIONS", "64"))
SECONDS = os.environ.get("SERVING_SECONDS", "8")
MODELS = ("scikit-learn==1.9.1", "pandas<3", "onnxruntime==1.32.0", "joblib", "numpy")
TOLD = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """
    A server.

    :param command: Starts it; ``{folder}`` and ``{port}`` are filled in, and ``{python}`` and ``{bin}`` of its
        environment.
    :param packages: What its environment holds; none: this one.
    """

    command: tuple[str, ...]
    packages: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    times: int = 1
    headers: tuple[str, ...] = ()


def _ours(kind: str) -> tuple[str, ...]:
    return ("{python}", "ours.py", "{folder}", "{port}", kind)


def _litserve(kind: str) -> Case:
    return Case(("{python}", "peer_litserve.py", "{folder}", "{port}", kind), ("litserve==0.2.19", *MODELS))


def _bentoml(kind: str) -> Case:
    command = ("{bin}/bentoml", "serve", "peer_bentoml:Flights", "--host", "127.0.0.1", "--port", "{port}")
    return Case(command, ("bentoml==1.4.39", *MODELS), {"BENCH_FOLDER": "{folder}", "BENCH_KIND": kind})


CASES = {
    "floor": Case(("{python}", "floor.py", "{folder}", "{port}")),
    "floor-starlette": Case(("{python}", "floor.py", "{folder}", "{port}", "starlette")),
    "ours-onnx": Case(_ours("onnx")),
    "ours-pipeline": Case(_ours("pipeline")),
    "overload": Case(_ours("onnx"), times=10, headers=("X-MLOps-Deadline-Ms: 250",)),
    "litserve-onnx": _litserve("onnx"),
    "litserve-pipeline": _litserve("pipeline"),
    "bentoml-onnx": _bentoml("onnx"),
    "bentoml-pipeline": _bentoml("pipeline"),
}


def measured(name: str, folder: Path) -> dict:
    """Start a server, load it, end it."""
    case, port = CASES[name], free_port()
    python = _python(name, case, folder)
    filling = {"folder": folder, "port": port, "python": python, "bin": python.parent}
    command = [each.format(**filling) for each in case.command]
    environment = os.environ | TOLD | {key: each.format(**filling) for key, each in case.environment.items()}
    with (folder / f"{name}.log").open("wb") as sink:
        server = subprocess.Popen(
            ["taskset", "-c", "0", *command],
            cwd=HERE,
            env=environment,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}/invocations"
        _wait(url, (folder / "records.txt").read_bytes().splitlines()[0], server)
        before = _megabytes(server.pid)
        load = [
            "taskset", "-c", "1", sys.executable, str(HERE / "load.py"), url, str(folder / "records.txt"),
            "--connections", str(CONNECTIONS * case.times), "--seconds", SECONDS, "--token", TOKEN,
            "--pid", str(server.pid), *(word for header in case.headers for word in ("--header", header)),
        ]  # fmt: skip
        told = json.loads(subprocess.run(load, check=True, capture_output=True, text=True).stdout)
        told["memory_mb"] = [before, _megabytes(server.pid)]
        return told
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def _python(name: str, case: Case, folder: Path) -> Path:
    """The interpreter of a case's environment, which is made if need be."""
    if not case.packages:
        return Path(sys.executable)
    place = folder / "environments" / name.partition("-")[0]
    if not (place / "done").exists():
        uv = [str(Path(sys.executable).parent / "uv")]
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, str(place)], check=True)
        wanted = [*uv, "pip", "install", "--quiet", "--python", str(place / "bin" / "python"), *case.packages]
        subprocess.run(wanted, check=True)
        (place / "done").touch()
    return place / "bin" / "python"


def _megabytes(pid: int) -> int:
    process = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True))) // 2**20


def _wait(url: str, body: bytes, server: subprocess.Popen) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"The server ended: {server.returncode}")
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit("The server did not answer within two minutes.")


if __name__ == "__main__":
    import scored

    given = os.environ.get("SERVING_FOLDER")
    place = Path(given or tempfile.mkdtemp(prefix="mlops-serving-"))
    if not (place / "records.txt").exists():
        scored.make(place)
    print(machine())
    print(f"load average {os.getloadavg()[0]:.1f} at the begin")
    for wanted in os.environ.get("SERVING_ONLY", ",".join(CASES)).split(","):
        print(f"{wanted:<18}", json.dumps(measured(wanted, place)), flush=True)

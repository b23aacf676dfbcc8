"""
Our model server beside a floor and beside its peers: one process on one core, 64 connections, one row per request.

Ours has everything on: prediction log, a split between two versions, a token. The floor parses, predicts with the same
ONNX model and answers, and does nothing else. `overload` asks ours for ten times as much, each caller waiting 250 ms.
The peers batch, if they can, as their documentation advises, in environments of their own that this makes; each serves
the pipeline and the same ONNX model, without a log or a token. All take turns for three rounds; medians are compared.

`SERVING_SECONDS=3 SERVING_ROUNDS=1` is a quick look; `SERVING_ONLY=ours-onnx,floor` measures only these;
`SERVING_FOLDER` keeps models and environments for the next time.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from measure import free_port, load, machine, target

HERE = Path(__file__).resolve().parent / "serving"
sys.path.insert(0, str(HERE))
TOKEN = "only-for-this-benchmark"
CONNECTIONS = int(os.environ.get("SERVING_CONNECTIONS", "64"))
SECONDS = os.environ.get("SERVING_SECONDS", "5")
ROUNDS = int(os.environ.get("SERVING_ROUNDS", "3"))
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
    :param times: Connections, as a multiple of the usual ones.
    :param path: Where it predicts.
    :param bodies: File with its requests, the same rows for all.
    """

    command: tuple[str, ...]
    packages: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    times: int = 1
    headers: tuple[str, ...] = ()
    path: str = "/invocations"
    bodies: str = "records.txt"


def _ours(kind: str) -> tuple[str, ...]:
    return ("{python}", "ours.py", "{folder}", "{port}", kind)


def _litserve(kind: str) -> Case:
    return Case(("{python}", "peer_litserve.py", "{folder}", "{port}", kind), ("litserve==0.2.19", *MODELS))


def _bentoml(kind: str) -> Case:
    command = ("{bin}/bentoml", "serve", "peer_bentoml:Flights", "--host", "127.0.0.1", "--port", "{port}")
    return Case(command, ("bentoml==1.4.39", *MODELS), {"BENCH_FOLDER": "{folder}", "BENCH_KIND": kind})


def _mlserver(kind: str) -> Case:
    command = ("{python}", "peer_mlserver.py", "{folder}", "{port}", kind)
    # It does not start with uvloop 0.22.
    packages = ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop<0.22", *MODELS)
    return Case(command, packages, path="/v2/models/flights/infer", bodies="tensors.txt")


def _mlflow(kind: str) -> Case:
    return Case(("{python}", "peer_mlflow.py", "{folder}", "{port}", kind), ("mlflow==3.17.2", *MODELS))


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
    "mlserver-onnx": _mlserver("onnx"),
    "mlserver-pipeline": _mlserver("pipeline"),
    "mlflow-onnx": _mlflow("onnx"),
    "mlflow-pipeline": _mlflow("pipeline"),
}
_NUMBER = re.compile(r"\d\.\d+(?:e-\d+)?")
PEERS = ("litserve", "bentoml", "mlserver", "mlflow")


def measured(name: str, folder: Path) -> dict[str, Any]:
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
        url, bodies = f"http://127.0.0.1:{port}{case.path}", folder / case.bodies
        expected = float((folder / "expected.txt").read_text())
        _wait(url, bodies.read_bytes().splitlines()[0], expected, server)
        before = _megabytes(server.pid)
        loading = [
            "taskset", "-c", "1", sys.executable, str(HERE / "load.py"), url, str(bodies),
            "--connections", str(CONNECTIONS * case.times), "--seconds", SECONDS, "--token", TOKEN,
            "--pid", str(server.pid), *(word for header in case.headers for word in ("--header", header)),
        ]  # fmt: skip
        told = json.loads(subprocess.run(loading, check=True, capture_output=True, text=True).stdout)
        told["memory_mb"] = [before, _megabytes(server.pid)]
        return told
    finally:
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # some leave workers behind, which would take the next one's core


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


def _wait(url: str, body: bytes, expected: float, server: subprocess.Popen[bytes]) -> None:
    """Wait until it answers, and answers right: the protocols differ, but the probability comes last in each."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"The server ended: {server.returncode}")
        try:
            answer = urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5).read().decode()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
            continue
        if abs(float(_NUMBER.findall(answer)[-1]) - expected) > 1e-6:
            raise SystemExit(f"It answers {answer}, not {expected}.")
        return
    raise SystemExit("The server did not answer within two minutes.")


def compared(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Print a table of medians, and the figures that are aimed at."""
    names = ("per_second", "p50", "p99", "server_us", "memory_mb")
    found = {
        name: {each: median(_number(told[each]) for told in runs) for each in names} for name, runs in rounds.items()
    }
    print(
        f"\n{'median':<18}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'CPU us/request':>16}{'MB':>7}   refused, lost"
    )
    for name, each in found.items():
        refused = sum(sum(told["statuses"].values()) - told["statuses"].get("200", 0) for told in rounds[name])
        lost = sum(told["lost"] for told in rounds[name])
        print(
            f"{name:<18}{each['per_second']:>12,.0f}{each['p50']:>10,.1f}{each['p99']:>10,.1f}{each['server_us']:>16,.0f}"
            f"{each['memory_mb']:>7,.0f}   {refused:,}, {lost:,}"
        )
    ours = found.get("ours-onnx")
    if ours is None:
        return
    for kind, times in (("pipeline", 10), ("onnx", 1.5)):
        peers = [found[f"{peer}-{kind}"] for peer in PEERS if f"{peer}-{kind}" in found]
        if peers:
            best, quickest = max(each["per_second"] for each in peers), min(each["p99"] for each in peers)
            target(f"requests/s, times the best peer with the {kind}", ours["per_second"] / best, times, at_least=True)
            target(f"p99, share of the quickest peer's with the {kind}", ours["p99"] / quickest, 0.2)
    if "floor" in found:
        share = ours["per_second"] / found["floor"]["per_second"]
        target("requests/s, share of the floor's", share, 0.75, at_least=True)


def _number(told: float | list[int]) -> float:
    return told[-1] if isinstance(told, list) else told


def every(names: Iterable[str], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Measure cases in turn, round after round."""
    wanted = list(names)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    for number in range(ROUNDS):
        for name in wanted:
            rounds[name].append(measured(name, folder))
            print(f"{number + 1} {name:<18}", json.dumps(rounds[name][-1]), flush=True)
    return rounds


if __name__ == "__main__":
    import scored

    with contextlib.ExitStack() as stack:
        given = os.environ.get("SERVING_FOLDER")
        place = Path(given or stack.enter_context(tempfile.TemporaryDirectory(prefix="mlops-serving-")))
        if not (place / "expected.txt").exists():
            scored.make(place)
        print(machine())
        print(f"{load()} at the begin", flush=True)
        compared(every(os.environ.get("SERVING_ONLY", ",".join(CASES)).split(","), place))

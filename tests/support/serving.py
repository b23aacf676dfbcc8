"""A small model, its stores, and real model server processes around them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import yaml
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_provider.core.names import Kind, Table
from mlops_provider.core.origin import Origin
from mlops_provider.core.rollout import Traffic
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.registry import Registry
from mlops_provider.stores.tables import Tables
from mlops_provider.targets import Server
from support.stack import ROOT, free_port

MODEL = "late_flights"
COLUMNS = ("distance", "seats", "carrier")
DECLARED: dict[str, Any] = {
    "name": MODEL,
    "owner": "data-team",
    "functions": {name: f"code.py:{name}" for name in ("land", "features", "outcomes", "estimator", "space")},
    "keys": ["flight"],
    "event_time": "scheduled",
    "first_partition": "2013-01",
    "label_lag_days": 3,
    "target": {"name": "late"},
    "expectations": "expectations.yaml",
    "features": {"numeric": ["distance", "seats"], "categorical": ["carrier"]},
    "gate": {"primary": "roc_auc"},
    "rollout": {
        "strategy": "canary",
        "steps": [10, 50, 100],
        "soak_seconds": 0.0,
        "guards": {"errors": {"maximum": 0.01, "minimum_requests": 20}},
        "wait_at_most_seconds": 0.0,
        "without_data": "proceed",
    },
}
SERVE = """
import json, logging, resource, sys
from mlops_provider.serving import run
logging.basicConfig(level=logging.INFO)
settings = json.loads(sys.argv[1])
largest_file = settings.pop("largest_file", None)
if largest_file:
    # Writing beyond it fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
run(**settings)
"""


def frame(rows: int, seed: int = 0) -> pd.DataFrame:
    """Feature rows with missing cells and every type the flights have."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "flight": [f"F{number}" for number in range(rows)],
            "scheduled": pd.date_range("2013-01-01", periods=rows, freq="min", tz="UTC"),
            "distance": random.normal(1000, 300, rows).round(3),
            "seats": random.integers(20, 300, rows),
            "carrier": random.choice(["AA", "UA", "DL"], rows),
        }
    )


def pipeline(seed: int) -> Pipeline:
    """A fitted pipeline of columns; another seed predicts differently."""
    rows = frame(300, seed)
    late = np.random.default_rng(seed).integers(0, 2, len(rows))
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough", verbose_feature_names_out=False
    )
    return make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(rows[list(COLUMNS)], late)


@dataclass
class ServerProcess:
    """One replica, in its own process."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, verify=False)

    def score(self, content: Any = None, *, headers: Mapping[str, str] | None = None, **kwargs: Any) -> httpx.Response:
        content = records(3) if content is None else content
        # Without `verify=False` each call would load the system's certificates.
        return httpx.post(
            f"{self.url}/invocations", json=content, headers=dict(headers or {}), timeout=10, verify=False, **kwargs
        )

    def wait_for_generation(self, generation: int, seconds: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (state := self.get("/traffic").json()[MODEL])["generation"] < generation:
            assert time.monotonic() < deadline, f"{state}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)
        return state

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=30)


@dataclass
class World:
    """Stores in one folder, and what lives on them."""

    folder: Path
    empty_mlflow: Path
    servers: list[ServerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        shutil.copy(self.empty_mlflow, self.folder / "mlflow.db")
        self.registry_uri = f"sqlite:///{self.folder}/mlflow.db"
        self.spool = self.folder / "spool"
        self.tables = Tables(str(self.folder / "tables"))
        self.registry = Registry(self.registry_uri)
        self.pipelines: dict[str, Pipeline] = {}
        self.runs: dict[str, str] = {}
        self.use_ledger(self.folder / "ledger.db")

    def use_ledger(self, file: Path) -> None:
        self.ledger_file = file
        self.use_ledger_at(f"sqlite:///{file}")

    def use_ledger_at(self, url: str) -> None:
        self.ledger_url = url
        self.ledger = Ledger(url)
        self.stores: Any = SimpleNamespace(tables=self.tables, registry=self.registry, ledger=self.ledger)

    def stores_away(self) -> Any:
        """Only the ledger is there."""
        registry = Registry(f"sqlite:///{self.folder}/nowhere/mlflow.db")
        return SimpleNamespace(tables=Tables(str(self.folder / "none")), registry=registry, ledger=self.ledger)

    def spec(self, **changes: Any) -> ModelSpec:
        folder = self.folder / "use_case"
        folder.mkdir(exist_ok=True)
        (folder / "expectations.yaml").write_text("[]\n")
        (folder / "code.py").touch()
        path, fresh = folder / "model.yaml", folder / f".model.{threading.get_ident()}"
        fresh.write_text(yaml.safe_dump({**DECLARED, **changes}))
        fresh.replace(path)  # whole or not at all: tries in several threads read it at once
        return load_spec(path)

    def land_features(self) -> None:
        uri = self.tables.uri(MODEL, Table.FEATURES)
        self.tables.replace_partition(uri, "2013-02").write(frame(200, seed=7), origin_key="test")

    def register(self, seed: int, *, passed: bool = True, recorded: bool = True) -> str:
        """Log, gate and register a model, as the train DAG does."""
        rows = frame(5)[list(COLUMNS)]
        run_id = self.registry.ensure_run(MODEL, f"run {seed}", name=f"run {seed}", tags={})
        fitted = pipeline(seed)
        self.registry.log_model(run_id, fitted, example=rows, pip_requirements=["scikit-learn"], trusted_types=[])
        version = self.registry.ensure_version(MODEL, run_id, tags={})
        self.pipelines[version] = fitted
        self.runs[version] = run_id
        if recorded:
            self.record(version, passed=passed)
        return version

    def record(self, version: str, *, passed: bool = True, champion: str | None = None, packable: bool = False) -> None:
        """Put into the ledger what the train DAG records about a version; all that a package asks for, on demand."""
        run_id = self.runs[version]
        declared = self.ledger.append(Kind.DECLARATION, MODEL, {"champion_version": champion})
        verdict = {"passed": passed, "reasons": [], "run_id": run_id, "declaration": declared.record_id}
        gate = self.ledger.append(Kind.GATE, MODEL, verdict)
        registration = {"version": version, "run_id": run_id, "gate": gate.record_id, "trained_through": "2013-01"}
        if packable:
            self.ledger.append(Kind.TRAINING, MODEL, {"trained_on": ["2013-01"]}, key=run_id)
            registration |= {
                "declaration": declared.record_id,
                "evaluation": self.ledger.append(Kind.EVALUATION, MODEL, {}).record_id,
                "files": self.registry.model_digest(f"models:/{MODEL}/{version}"),
            }
        self.ledger.append(Kind.REGISTRATION, MODEL, registration, key=run_id)

    def settle(self, split: Mapping[str, int], *, settled: bool = True) -> Traffic:
        """Move traffic by hand, without a rollout."""
        now = self.ledger.traffic(MODEL)
        generation = now.generation if now else 0
        return self.ledger.propose_traffic(MODEL, split, settled=settled, expected_generation=generation)

    def serve(self, name: str = "server", **changes: Any) -> ServerProcess:
        port = adjacent_ports(changes.get("processes", 1) + 1) if "processes" in changes else int(free_port())
        settings = {
            "models": [MODEL],
            "port": port,
            "ledger_url": self.ledger_url,
            "registry_uri": self.registry_uri,
            "spool_dir": str(self.spool),
            "name": name,
            **changes,
        }
        log = self.folder / f"{name}-{port}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVE, json.dumps(settings)],
                stdout=sink,
                stderr=sink,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]),
                },
            )
        server = ServerProcess(f"http://127.0.0.1:{port}", process, log)
        self.servers.append(server)
        deadline = time.monotonic() + 60
        while True:
            alive = process.poll() is None
            assert alive, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                server.get("/ping")
                return server
            except httpx.TransportError:
                time.sleep(0.1)

    def target(self, server: ServerProcess | None = None) -> Server:
        url = (server or self.servers[0]).url if self.servers else "http://127.0.0.1:9"
        return Server(url, model=MODEL, ledger=self.ledger)

    def expected(self, version: str, rows: pd.DataFrame) -> list[float]:
        return list(self.pipelines[version].predict_proba(rows[list(COLUMNS)])[:, 1])

    def close(self) -> None:
        for server in self.servers:
            server.end(signal.SIGKILL)


def adjacent_ports(count: int) -> int:
    """First of *count* ports in a row that are free, outside of those that the system deals out by itself."""
    random = np.random.default_rng()
    while True:
        first = int(random.integers(20_000, 30_000))
        try:
            with contextlib.ExitStack() as held:
                for port in range(first, first + count):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
        except OSError:
            continue


def records(rows: int, seed: int = 3) -> dict[str, Any]:
    """A request of *rows* rows in the records layout."""
    return {"dataframe_records": frame(rows, seed)[list(COLUMNS)].to_dict(orient="records")}


def origin(task: str = "deploy_model", run: str = "run-1") -> Origin:
    return Origin("late_flights_deploy", run, task, actor="ada")

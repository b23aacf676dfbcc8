"""
Our server over a ledger and a registry of its own: `python ours.py FOLDER PORT [pipeline|onnx]`.

Everything is on: the prediction log, routing between two versions, a token. The model `onnx` is registered with its
graph, as registration does it where that reproduces the pipeline; `pipeline` without.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import joblib
from scored import COLUMNS, rows

from mlops_provider.core.names import Kind
from mlops_provider.serving import run
from mlops_provider.stores import model_files
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.registry import Registry

TOKEN = "only-for-this-benchmark"


def prepare(folder: Path, model: str) -> None:
    """Register the pipeline twice and split the traffic between both versions."""
    ledger, registry = Ledger(_ledger(folder)), Registry(_registry(folder))
    pipeline = joblib.load(folder / "pipeline.joblib")
    for number in ("1", "2"):
        run_id = registry.ensure_run(model, f"run {number}", name=f"run {number}", tags={})
        trusted = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
        registry.log_model(
            run_id,
            pipeline,
            example=rows(5, 1)[list(COLUMNS)],
            pip_requirements=["scikit-learn"],
            trusted_types=trusted,
        )
        if model == "onnx":
            registry.add_file(run_id, model_files.SCORER, (folder / "scorer.onnx").read_bytes())
        version = registry.ensure_version(model, run_id, tags={})
        declared = ledger.append(Kind.DECLARATION, model, {"champion_version": None})
        verdict = {"passed": True, "reasons": [], "run_id": run_id, "declaration": declared.record_id}
        gate = ledger.append(Kind.GATE, model, verdict)
        ledger.append(
            Kind.REGISTRATION, model, {"version": version, "run_id": run_id, "gate": gate.record_id}, key=run_id
        )
    ledger.propose_traffic(model, {"1": 90, "2": 10}, settled=True, expected_generation=0)


def serve(folder: Path, port: int, model: str) -> None:
    """Serve until told to end."""
    os.environ["MLOPS_SERVER_TOKENS"] = f"bench {TOKEN}"
    run(
        [model],
        port=port,
        ledger_url=_ledger(folder),
        registry_uri=_registry(folder),
        spool_dir=folder / "spool",
        name=f"bench-{port}",
    )


def _ledger(folder: Path) -> str:
    return f"sqlite:///{folder}/ledger.db"


def _registry(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


if __name__ == "__main__":
    place, listen, served = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    if Ledger(_ledger(place)).traffic(served) is None:
        prepare(place, served)
    serve(place, listen, served)

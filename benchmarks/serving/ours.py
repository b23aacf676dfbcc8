"""
Our server over a ledger and a registry of its own: `python ours.py FOLDER PORT [pipeline|onnx]`.

Everything is on: the prediction log, routing between two versions, a token. `onnx` serves the graph of scored.py in
place of the registered pipeline.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import joblib
from scored import COLUMNS, onnx, rows

from mlops_provider.core.names import Kind
from mlops_provider.stores.ledger import Ledger
from mlops_provider.stores.registry import Registry

MODEL = "flights"
TOKEN = "only-for-this-benchmark"


def prepare(folder: Path) -> None:
    """Register the pipeline twice and split the traffic between both versions."""
    ledger, registry = Ledger(f"sqlite:///{folder}/ledger.db"), Registry(f"sqlite:///{folder}/mlflow.db")
    pipeline = joblib.load(folder / "pipeline.joblib")
    for number in ("1", "2"):
        run_id = registry.ensure_run(MODEL, f"run {number}", name=f"run {number}", tags={})
        trusted = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]
        registry.log_model(
            run_id,
            pipeline,
            example=rows(5, 1)[list(COLUMNS)],
            pip_requirements=["scikit-learn"],
            trusted_types=trusted,
        )
        version = registry.ensure_version(MODEL, run_id, tags={})
        declared = ledger.append(Kind.DECLARATION, MODEL, {"champion_version": None})
        verdict = {"passed": True, "reasons": [], "run_id": run_id, "declaration": declared.record_id}
        gate = ledger.append(Kind.GATE, MODEL, verdict)
        ledger.append(
            Kind.REGISTRATION, MODEL, {"version": version, "run_id": run_id, "gate": gate.record_id}, key=run_id
        )
    ledger.propose_traffic(MODEL, {"1": 90, "2": 10}, settled=True, expected_generation=0)


def serve(folder: Path, port: int, *, kind: str) -> None:
    """Serve until told to end."""
    os.environ["MLOPS_SERVER_TOKENS"] = f"bench {TOKEN}"
    if kind == "onnx":
        from mlops_provider.serving import process
        from mlops_provider.serving.snapshot import LoadedVersion

        scorer, registered = onnx(folder), process.load

        def load(*arguments: Any) -> LoadedVersion:
            loaded = registered(*arguments)
            return LoadedVersion(loaded.version, scorer, loaded.columns)

        process.load = load
    from mlops_provider.serving import run

    run(
        [MODEL],
        port=port,
        ledger_url=f"sqlite:///{folder}/ledger.db",
        registry_uri=f"sqlite:///{folder}/mlflow.db",
        spool_dir=folder / "spool",
        name=f"bench-{port}",
    )


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if not (place / "ledger.db").exists():
        prepare(place)
    if len(sys.argv) > 2:
        serve(place, int(sys.argv[2]), kind=sys.argv[3])

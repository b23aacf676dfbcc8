"""
`mlflow models serve`, one worker: `python peer_mlflow.py FOLDER PORT pipeline|onnx`.

The pipeline is saved as MLflow's scikit-learn flavour. Its ONNX flavour takes one matrix of numbers and no words, so
the graph is a model of MLflow's general flavour, whose code is this file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import mlflow
from scored import COLUMNS, NUMBERS, onnx


class Flights(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc]
    """The graph, with words encoded in front of it."""

    def load_context(self, context: Any) -> None:
        """Load it once per worker."""
        self.scorer = onnx(Path(context.artifacts["graph"]).parent)

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        """Score the rows of a request; those without a number come as objects."""
        numbers = model_input[list(NUMBERS)].astype(float)
        return self.scorer({name: (numbers if name in numbers else model_input)[name].to_numpy() for name in COLUMNS})


def saved(folder: Path, kind: str) -> Path:
    """Save the model as MLflow has them."""
    place = folder / f"mlflow-{kind}"
    if place.exists():
        return place
    if kind == "onnx":
        mlflow.pyfunc.save_model(
            place,
            python_model=__file__,
            artifacts={"graph": str(folder / "scorer.onnx")},
            code_paths=[str(Path(__file__).parent / "scored.py")],
            pip_requirements=[],
        )
    else:
        import joblib

        mlflow.sklearn.save_model(
            joblib.load(folder / "pipeline.joblib"),
            place,
            pyfunc_predict_fn="predict_proba",
            pip_requirements=[],
            skops_trusted_types=["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"],
        )
    return place


if __name__ == "__main__":
    command = ["mlflow", "models", "serve", "--model-uri", str(saved(Path(sys.argv[1]), sys.argv[3]))]
    command += ["--host", "127.0.0.1", "--port", sys.argv[2], "--workers", "1", "--env-manager", "local"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it starts its server by name
    os.execv(Path(sys.executable).parent / "mlflow", command)
else:
    mlflow.models.set_model(Flights())

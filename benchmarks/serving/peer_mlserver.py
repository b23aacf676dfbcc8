"""
MLServer with adaptive batching: `python peer_mlserver.py FOLDER PORT pipeline|onnx`.

The pipeline is served by its scikit-learn runtime; of ONNX it has none, so that is a custom model, as its documentation
describes them. Its settings are files, and it is started by `mlserver start`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse
from scored import onnx


class Flights(MLModel):
    """The graph, with words encoded in front of it."""

    async def load(self) -> bool:
        """Load it once per worker."""
        self.scorer = onnx(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score a batch."""
        frame = self.decode_request(payload, default_codec=PandasCodec)
        answers = self.scorer({name: frame[name].to_numpy() for name in self.scorer.columns})
        output = NumpyCodec.encode_output("prediction", answers.reshape(-1, 1))
        return InferenceResponse(model_name=self.name, outputs=[output])


def written(folder: Path, port: int, kind: str) -> Path:
    """Write its settings."""
    place = folder / f"mlserver-{kind}"
    place.mkdir(exist_ok=True)
    models: dict[str, dict[str, Any]] = {
        "pipeline": {
            "implementation": "mlserver_sklearn.SKLearnModel",
            "parameters": {"uri": str(folder / "pipeline.joblib"), "extra": {"predict_fn": "predict_proba"}},
        },
        "onnx": {"implementation": "peer_mlserver.Flights", "parameters": {"uri": str(folder)}},
    }
    server = {"host": "127.0.0.1", "http_port": port, "grpc_port": _free_port(), "metrics_endpoint": None}
    batching = {"max_batch_size": 64, "max_batch_time": 0.005}
    (place / "settings.json").write_text(json.dumps({**server, "debug": False, "parallel_workers": 1}))
    (place / "model-settings.json").write_text(json.dumps({"name": "flights", **batching, **models[kind]}))
    return place


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    settings = written(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    os.execv(Path(sys.executable).parent / "mlserver", ["mlserver", "start", str(settings)])

"""LitServe, batching as its documentation advises: `python peer_litserve.py FOLDER PORT pipeline|onnx`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve
import pandas as pd
from scored import COLUMNS, onnx

FOLDER, KIND = Path(sys.argv[1]), sys.argv[3]


class Flights(litserve.LitAPI):
    """One row per request; LitServe puts them together."""

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        if KIND == "onnx":
            self.model = onnx(FOLDER)
        else:
            import joblib

            self.model = joblib.load(FOLDER / "pipeline.joblib")

    def decode_request(self, request):  # LitServe takes an annotation for a schema of its own
        """Give the row."""
        return request["dataframe_records"][0]

    def batch(self, inputs: list[Any]) -> Any:
        """Make a frame of the rows."""
        return pd.DataFrame(inputs, columns=list(COLUMNS))

    def predict(self, x: pd.DataFrame) -> Any:
        """Score the batch."""
        numbers = x.columns[3:]
        x[numbers] = x[numbers].astype(float)
        if KIND == "onnx":
            return self.model({name: x[name].to_numpy() for name in COLUMNS})
        return self.model.predict_proba(x)[:, 1]

    def unbatch(self, output: Any) -> list[float]:
        """Take the answers apart."""
        return list(output.tolist())

    def encode_response(self, output: float) -> Any:
        """Answer as the others do."""
        return {"predictions": [output]}


if __name__ == "__main__":
    api = Flights(max_batch_size=64, batch_timeout=0.005, api_path="/invocations")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[2]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )

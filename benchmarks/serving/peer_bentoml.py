"""BentoML with adaptive batching, lists in: it is started by `bentoml serve peer_bentoml:Flights`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
import pandas as pd
from scored import COLUMNS, onnx

FOLDER, KIND = Path(os.environ["BENCH_FOLDER"]), os.environ["BENCH_KIND"]


@bentoml.service(workers=1, traffic={"timeout": 60})
class Flights:
    """One row per request; BentoML puts them together."""

    def __init__(self) -> None:
        if KIND == "onnx":
            self.model: Any = onnx(FOLDER)
        else:
            import joblib

            self.model = joblib.load(FOLDER / "pipeline.joblib")

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000, route="/invocations")
    def predict(self, dataframe_records: list[dict[str, Any]]) -> list[float]:
        """Score the rows of a batch."""
        frame = pd.DataFrame(dataframe_records, columns=list(COLUMNS))
        numbers = frame.columns[3:]
        frame[numbers] = frame[numbers].astype(float)
        if KIND == "onnx":
            return list(self.model({name: frame[name].to_numpy() for name in COLUMNS}).tolist())
        return list(self.model.predict_proba(frame)[:, 1].tolist())

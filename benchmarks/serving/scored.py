"""The model that every server serves: the demo's pipeline on rows like the demo's, and the same trees as ONNX."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"carrier": 16, "origin": 3, "dest": 104}
NUMBERS = (
    "hour", "weekday", "distance", "seats", "aircraft_age", "temp", "dewp", "dewpoint_spread", "humid", "wind_speed",
    "precip", "pressure", "visib", "origin_delay_2h", "origin_delay_6h", "origin_late_share_2h", "carrier_delay_4h",
    "carrier_late_share_4h", "carrier_origin_delay_6h",
)  # fmt: skip
COLUMNS = (*WORDS, *NUMBERS)


def rows(count: int, seed: int) -> pd.DataFrame:
    """Rows with the demo's columns; 5 % of the numbers are missing."""
    random = np.random.default_rng(seed)
    made: dict[str, Any] = {
        name: random.choice([f"{name[0].upper()}{n:02}" for n in range(kinds)], count) for name, kinds in WORDS.items()
    }
    for name in NUMBERS:
        cells = random.normal(50, 20, count).round(2)
        made[name] = np.where(random.random(count) < 0.05, np.nan, cells)
    return pd.DataFrame(made)


def fitted(seed: int = 0) -> Any:
    """The demo's estimator, fitted on 50,000 rows."""
    estimator = runpy.run_path(str(ROOT / "include" / "flight_delays" / "model.py"))["estimator"]
    frame = rows(50_000, seed)
    signal = frame["hour"].fillna(50) + frame["carrier"].str[1:].astype(int) + frame["temp"].fillna(50)
    late = (signal + np.random.default_rng(seed).normal(0, 20, len(frame)) > 115).astype(int)
    return estimator({}).fit(frame, late)


class Onnx:
    """
    Words by dictionary, numbers as they are, then the trees in ONNX Runtime, on one thread.

    :param content: The graph as this project registers it; its metadata hold the dictionaries.
    """

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (about,) = self.session.get_modelmeta().custom_metadata_map.values()
        slots = json.loads(about)["slots"]
        self.columns = [slot["column"] for slot in slots]
        self.codes = [dict(slot["codes"]) if "codes" in slot else None for slot in slots]
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    def __call__(self, columns: Any) -> Any:
        """Predict from one array of cells per column, shape (n_rows,)."""
        matrix = np.empty((len(columns["carrier"]), len(self.columns)))
        for place, (name, codes) in enumerate(zip(self.columns, self.codes, strict=True)):
            cells = columns[name]
            matrix[:, place] = cells if codes is None else [codes.get(cell, -1.0) for cell in cells]
        return self.predicted(matrix)

    def predicted(self, matrix: Any) -> Any:
        """Predict from the encoded cells, shape (n_rows, n_columns)."""
        return self.session.run([self.output], {self.input: matrix})[0].reshape(-1)


def make(folder: Path) -> None:
    """Write what the servers load, the requests in both protocols, and what the first one must be answered."""
    import joblib

    from mlops_provider.adapters import conversion
    from mlops_provider.core.columns import Column

    pipeline, frame = fitted(), rows(2000, seed=7)
    taken = [Column(name, "text" if name in WORDS else "number") for name in COLUMNS]
    graph = conversion.converted(pipeline, taken, frame.head(1))
    joblib.dump(pipeline, folder / "pipeline.joblib")
    (folder / "scorer.onnx").write_bytes(graph)
    answers = Onnx(graph)({name: frame[name].to_numpy() for name in COLUMNS})
    difference = np.abs(answers - _probabilities(pipeline, frame))
    print(f"ONNX against the pipeline: {difference.max():.1e} at most, {len(frame)} rows")
    (folder / "expected.txt").write_text(str(_probabilities(pipeline, frame.head(1))[0]))
    plain = frame.astype(object).where(frame.notna(), None)
    records = plain.to_dict(orient="records")[:256]
    (folder / "records.txt").write_text("\n".join(json.dumps({"dataframe_records": [each]}) for each in records))
    (folder / "tensors.txt").write_text("\n".join(json.dumps(_tensors(each)) for each in records))


def _probabilities(pipeline: Any, frame: pd.DataFrame) -> Any:
    return pipeline.predict_proba(frame)[:, 1]


def _tensors(record: dict[str, Any]) -> dict[str, Any]:
    """A row in the Open Inference Protocol, as MLServer takes it for a frame."""
    inputs = [
        {"name": name, "shape": [1, 1], "data": [cell], "datatype": "BYTES" if name in WORDS else "FP64"}
        for name, cell in record.items()
    ]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


def onnx(folder: Path) -> Onnx:
    """Load what :func:`make` wrote."""
    return Onnx((folder / "scorer.onnx").read_bytes())

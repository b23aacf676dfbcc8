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


def graph(pipeline: Any) -> bytes:
    """
    The trees of the pipeline as ONNX, over the matrix that :class:`Onnx` makes.

    Written out, for skl2onnx does not work beside the protobuf that is installed here.
    """
    from onnx import TensorProto, checker, helper

    trees = pipeline.named_steps["trees"]
    nodes: dict[str, list[Any]] = {
        name: []
        for name in (
            "treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
            "missing_value_tracks_true",
        )
    }  # fmt: skip
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree, (predictor,) in enumerate(trees._predictors):  # noqa: SLF001 - the only place they are
        for number, node in enumerate(predictor.nodes):
            leaf = bool(node["is_leaf"])
            row = (
                tree, number, 0 if leaf else int(node["feature_idx"]), 0.0 if leaf else float(node["num_threshold"]),
                "LEAF" if leaf else "BRANCH_LEQ", int(node["left"]), int(node["right"]),
                int(node["missing_go_to_left"]),
            )  # fmt: skip
            for cells, cell in zip(nodes.values(), row, strict=True):
                cells.append(cell)
            if leaf:
                for cells, cell in zip(leaves.values(), (tree, number, 0, float(node["value"])), strict=True):
                    cells.append(cell)
    base = float(trees._baseline_prediction.ravel()[0])  # noqa: SLF001
    about = {f"nodes_{name}": cells for name, cells in nodes.items()}
    about |= {f"target_{name}": cells for name, cells in leaves.items()}
    made = helper.make_graph(
        [
            helper.make_node(
                "TreeEnsembleRegressor", ["X"], ["raw"], domain="ai.onnx.ml", n_targets=1,
                base_values=[base], **about,
            ),
            helper.make_node("Sigmoid", ["raw"], ["probabilities"]),
        ],
        "trees",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, len(COLUMNS)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 1])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def dictionaries(pipeline: Any) -> list[list[str]]:
    """The categories of each word column, in the order of their numbers."""
    return [list(map(str, each)) for each in pipeline.named_steps["columns"].named_transformers_["words"].categories_]


class Onnx:
    """Words by dictionary, numbers as they are, then the trees in ONNX Runtime, on one thread."""

    def __init__(self, content: bytes, categories: list[list[str]]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.codes = [{name: float(code) for code, name in enumerate(each)} for each in categories]

    def __call__(self, columns: Any) -> Any:
        """Predict from one array of cells per column, shape (n_rows,)."""
        matrix = np.empty((len(columns["carrier"]), len(COLUMNS)), dtype=np.float32)
        for place, (name, codes) in enumerate(zip(WORDS, self.codes, strict=True)):
            matrix[:, place] = [codes.get(cell, -1.0) for cell in columns[name]]
        for place, name in enumerate(NUMBERS, start=len(WORDS)):
            matrix[:, place] = columns[name]
        return self.session.run(["probabilities"], {"X": matrix})[0][:, 0].astype(np.float64)


def make(folder: Path) -> None:
    """Write what the servers load: the pipeline for the peers, the graph, and the requests."""
    import joblib

    pipeline = fitted()
    joblib.dump(pipeline, folder / "pipeline.joblib")
    (folder / "graph.onnx").write_bytes(graph(pipeline))
    (folder / "categories.json").write_text(json.dumps(dictionaries(pipeline)))
    frame = rows(2000, seed=7)
    scorer = Onnx((folder / "graph.onnx").read_bytes(), dictionaries(pipeline))
    difference = np.abs(
        scorer({name: frame[name].to_numpy() for name in COLUMNS}) - pipeline.predict_proba(frame)[:, 1]
    )
    print(f"ONNX against the pipeline: {difference.max():.1e} at most, {len(frame)} rows")
    plain = frame.astype(object).where(frame.notna(), None)
    records = plain.to_dict(orient="records")
    bodies = [json.dumps({"dataframe_records": [record]}) for record in records[:256]]
    (folder / "records.txt").write_text("\n".join(bodies))


def onnx(folder: Path) -> Onnx:
    """Load what :func:`make` wrote."""
    return Onnx((folder / "graph.onnx").read_bytes(), json.loads((folder / "categories.json").read_text()))

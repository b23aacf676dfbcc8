"""
Predictions per second of batch scoring, 100 trees of 31 leaves: encoding included, and with reading and writing.

Real flights of January 2013, drawn with replacement, in a table of Parquet: 3 columns of text, 19 numbers. Ours is
what `score_batch` calls; beside it, in the same run and on the same rows, the scikit-learn pipeline as a whole, and the
same ONNX graph walked by ONNX Runtime. ``--rows`` changes how many.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import yaml
from measure import ROOT, in_child, machine, peak_of
from threadpoolctl import threadpool_limits

from mlops_provider.adapters import conversion, scorers, scoring, training
from mlops_provider.core.names import Table, Task
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.spec import ModelSpec, load_spec
from mlops_provider.steps import score
from mlops_provider.stores.suite import Stores

MONTH = "2013-01"
CORES = 2
CHUNK_ROWS = 1 << 20


def opened(place: Path) -> Stores:
    return Stores(
        tables_uri=str(place / "tables"),
        registry_uri=f"sqlite:///{place}/mlflow.db",
        ledger_url=f"sqlite:///{place}/ledger.db",
    )


def prepared(place: Path, rows: int) -> dict[str, Any]:
    """Write the features, and put a version with its graph into service."""
    use_case = place / "flight_delays"
    shutil.copytree(ROOT / "include/flight_delays", use_case, ignore=shutil.ignore_patterns("__pycache__"))
    declared = yaml.safe_load((use_case / "model.yaml").read_text())
    declared |= {"chunk_rows": CHUNK_ROWS, "resources": {str(Task.SCORE_BATCH): {"threads": CORES}}}
    (use_case / "model.yaml").write_text(yaml.safe_dump(declared))
    spec, stores = load_spec(use_case / "model.yaml"), opened(place)
    january = spec.function("land")(MONTH)
    known = spec.function("features")(january, january.head(0), pd.Timestamp("2013-02-01", tz="UTC"))
    columns, late = list(spec.feature_columns), january["arr_delay"].to_numpy() > 15
    model = spec.function("estimator")({"max_iter": 100, "max_leaf_nodes": 31, "min_samples_leaf": 20})
    model.fit(known[columns], late)
    run_id = stores.registry.ensure_run(spec.name, "bench", name="bench", tags={})
    uri = stores.registry.log_model(
        run_id,
        model,
        example=known[columns].head(5),
        pip_requirements=["scikit-learn"],
        trusted_types=training.TRUSTED_TYPES,
    )
    taken = stores.registry.columns(uri)
    graph = conversion.converted(model, taken, known.head(1))
    difference = conversion.largest_difference(graph, model, taken, known)
    stores.registry.add_file(run_id, "scorer.onnx", graph)
    version = stores.registry.ensure_version(spec.name, run_id, tags={})
    stores.ledger.propose_traffic(spec.name, {version: 100}, settled=True, expected_generation=0)
    picked = np.random.default_rng(0).integers(0, len(known), rows)
    drawn = known.iloc[picked].reset_index(drop=True).assign(flight=np.arange(rows))
    stores.tables.replace_partition(stores.tables.uri(spec.name, Table.FEATURES), MONTH).write(
        drawn, origin_key="bench"
    )
    leaves = [int(each["is_leaf"].sum()) for each in (p.nodes for (p,) in model[-1]._predictors)]  # noqa: SLF001
    return {"trees": len(leaves), "leaves": max(leaves), "columns": len(columns), "difference": difference}


def _loaded(place: Path) -> tuple[ModelSpec, Stores, Any, TableRef, Path]:
    spec, stores = load_spec(place / "flight_delays/model.yaml"), opened(place)
    uri = stores.tables.uri(spec.name, Table.FEATURES)
    reference = TableRef(uri, stores.tables.version(uri) or 0, MONTH)
    files = stores.registry.download_model(f"models:/{spec.name}/1", place / f"files-{time.time_ns()}")
    return spec, stores, stores.tables.rows(reference), reference, files


def in_memory(place: Path, threads: int) -> dict[str, Any]:
    """Encode and predict rows that lie in memory as Arrow tables, text as text."""
    _, _, rows, _, files = _loaded(place)
    scorer = scorers.OnnxScorer((files / "scorer.onnx").read_bytes())
    blocks = list(rows.blocks(scoring.ROWS_AT_ONCE, columns=[each.name for each in scorer.columns]))
    scoring.predictions(scorer, blocks[:2], threads=threads)
    return best(lambda: scoring.predictions(scorer, blocks, threads=threads), len(rows))


def walked(place: Path, threads: int) -> dict[str, Any]:
    """Encode, and let ONNX Runtime walk the trees."""
    scorers.TABLES_FROM = 1 << 60
    return in_memory(place, threads)


def from_table(place: Path, threads: int) -> dict[str, Any]:
    """Read the features table, encode and predict."""
    _, _, rows, _, files = _loaded(place)
    scorer = scorers.OnnxScorer((files / "scorer.onnx").read_bytes())

    def work() -> Any:
        blocks = rows.blocks(scoring.ROWS_AT_ONCE, columns=[each.name for each in scorer.columns])
        return scoring.predictions(scorer, blocks, threads=threads)

    return best(work, len(rows))


def pipeline(place: Path, threads: int) -> dict[str, Any]:
    """What users of scikit-learn do: the whole frame through the pipeline."""
    spec, stores, rows, _, _ = _loaded(place)
    model = stores.registry.load_model(f"models:/{spec.name}/1")
    frame = rows.frame(columns=list(model.feature_names_in_))
    with threadpool_limits(limits=threads):
        return best(lambda: model.predict_proba(frame)[:, 1], len(frame))


def whole_step(place: Path, _threads: int) -> dict[str, Any]:
    """Everything that the task does, in chunks: load the version, read, predict, hash, write and record."""
    spec, stores, rows, reference, _ = _loaded(place)

    def work() -> TableRef:
        return score.score(spec, stores, MONTH, reference, origin=Origin("bench", str(time.time_ns()), "score_batch"))

    return best(work, len(rows), runs=1)


def best(work: Callable[[], Any], rows: int, *, runs: int = 3) -> dict[str, Any]:
    """
    Rows per second of the fastest run, and per second of processor time; megabytes that a run needed on top.

    Processor time is what a busy machine does not change much.
    """
    measured, spent = [], []
    for _ in range(runs):
        began = time.process_time()
        measured.append(peak_of(work))
        spent.append(time.process_time() - began)
    return {
        "fastest": rows / min(each["seconds"] for each in measured),
        "processor": rows / min(spent),
        "megabytes": max(each["megabytes"] for each in measured),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=4_000_000)
    given = arguments.parse_args()
    print(machine(), f"onnxruntime {onnxruntime.__version__}, pyarrow {pa.__version__}", sep=", ")
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        place = Path(folder)
        about = in_child(prepared, place, given.rows)
        print(
            f"{given.rows:,} rows of {about['columns']} columns, {about['trees']} trees of at most {about['leaves']} "
            f"leaves; largest difference from the pipeline {about['difference']:.1e}"
        )
        cases: list[tuple[str, Callable[..., dict[str, Any]], int, str]] = [
            ("scikit-learn pipeline, whole frame", pipeline, CORES, ""),
            ("ours: encode + predict, one thread", in_memory, 1, ""),
            ("ours: encode + predict", in_memory, CORES, "600,000; 1,000,000 tried"),
            ("the same graph walked by ONNX Runtime", walked, CORES, ""),
            ("ours: read + encode + predict", from_table, CORES, "flat memory"),
            ("ours: the whole step, written and recorded", whole_step, CORES, ""),
        ]
        for name, case, threads, target in cases:
            found = in_child(case, place, threads)
            print(
                f"{name:<46}{found['fastest']:>12,.0f} rows/s{found['processor']:>12,.0f} rows per processor second"
                f"{found['megabytes']:>8,.0f} MB{f'   target {target}' if target else ''}",
                flush=True,
            )


if __name__ == "__main__":
    main()

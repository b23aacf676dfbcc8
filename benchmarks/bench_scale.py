"""
Ten million flights through ingest, validation, features and scoring, in chunks, by one worker and by two.

One month: January 2013, tiled, with flight numbers that make every key distinct, delivered day by day. Tasks call what
mapped tasks call, with the same JSON going in and out; plans and commits are tasks as well. Each runs in a process of
its own, forked from a worker that has loaded the libraries, as Airflow's workers do it. Memory is the most that such a
process held, the libraries included. Takes twelve minutes; ``--rows 1000000`` two.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from measure import ROOT, load, machine, peak_of, target

from mlops_provider import preload
from mlops_provider.core.chunks import Chunk, ChunkResult
from mlops_provider.core.names import Table, Task
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.spec import load_spec
from mlops_provider.steps import chunked, ingest, score
from mlops_provider.stores.suite import Stores

MONTH = "2013-01"
LIMIT_MB = 1_200
"""No task may take more, however many rows the month has, at the default ``--chunk-rows``."""
LAND = '''

def parts(key):
    """The days that the feed delivers one by one."""
    return sorted(pd.read_parquet(TILED, columns=["flight_date"])["flight_date"].unique())


def land_day(key, part):
    """The flights of a day, tiled in the order of their departure."""
    day = pd.read_parquet(TILED, filters=[("flight_date", "==", part)])
    day = day.sort_values("scheduled_departure", kind="stable")
    for first in range(0, TILES, 50):
        tiles = [day.assign(flight=day["flight"] + 10_000 * tile) for tile in range(first, min(first + 50, TILES))]
        yield pd.concat(tiles, ignore_index=True)
'''


def prepared(place: Path, rows: int, chunk_rows: int) -> None:
    """Write the use case with its source, and put a model into service."""
    use_case = place / "flight_delays"
    shutil.copytree(ROOT / "include/flight_delays", use_case, ignore=shutil.ignore_patterns("__pycache__"))
    january = load_spec(use_case / "model.yaml").function("land")(MONTH)
    january = january.drop_duplicates(["flight_date", "carrier", "flight", "origin"])
    january.to_parquet(place / "january.parquet")
    data = use_case / "data.py"
    tiles = max(rows // len(january), 1)
    data.write_text(f"{data.read_text()}\n\nTILED, TILES = {str(place / 'january.parquet')!r}, {tiles}\n{LAND}")
    declared = yaml.safe_load((use_case / "model.yaml").read_text())
    declared |= {"chunk_rows": chunk_rows, "look_back_hours": 48}
    declared["functions"] |= {"land": "data.py:land_day", "parts": "data.py:parts"}
    (use_case / "model.yaml").write_text(yaml.safe_dump(declared))
    _in_service(place, january)


def _in_service(place: Path, january: pd.DataFrame) -> None:
    from mlops_provider.adapters import conversion
    from mlops_provider.adapters.training import TRUSTED_TYPES
    from mlops_provider.stores import model_files

    spec, stores = load_spec(place / "flight_delays/model.yaml"), opened(place, "model")
    nothing = spec.function("history")(january.head(0), None)
    known = spec.function("features")(january, nothing, pd.Timestamp("2013-02-01", tz="UTC"))
    columns, late = list(spec.feature_columns), january["arr_delay"].to_numpy() > 15
    model = spec.function("estimator")({}).fit(known[columns], late)
    run_id = stores.registry.ensure_run(spec.name, "bench", name="bench", tags={})
    uri = stores.registry.log_model(
        run_id, model, example=known[columns].head(5), pip_requirements=["scikit-learn"], trusted_types=TRUSTED_TYPES
    )
    graph = conversion.converted(model, stores.registry.columns(uri), known.head(1))
    stores.registry.add_file(run_id, model_files.SCORER, graph)
    stores.registry.ensure_version(spec.name, run_id, tags={})


def opened(place: Path, name: str) -> Stores:
    return Stores(
        tables_uri=str(place / name / "tables"),
        registry_uri=f"sqlite:///{place}/mlflow.db",
        ledger_url=f"sqlite:///{place}/{name}.db",
    )


def forked(*about: Any) -> dict[str, Any]:
    """Run one task in a process of its own, as an Airflow worker does."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(task, *about).result()


def task(place: Path, name: str, step: str, kind: str, given: Any) -> dict[str, Any]:
    """Do what one task does."""
    spec, stores = load_spec(place / "flight_delays/model.yaml"), opened(place, name)
    origin = Origin("bench", name, step)
    month = spec.first_partition

    def work() -> Any:
        if kind == "plan":
            source = None if given is None else TableRef.from_json(given)
            planned = chunked.plan(Task(step), spec, stores, month, source=source, origin=origin)
            return [chunk.as_json() for chunk in planned]
        if kind == "chunk":
            return chunked.work(spec, stores, Chunk.from_json(given)).as_json()
        source, made = given
        chunks = [ChunkResult.from_json(each) for each in made]
        finish: dict[str, Callable[[], TableRef]] = {
            Task.LAND_DATA: lambda: ingest.land(spec, stores, month, chunks=chunks, origin=origin),
            Task.VALIDATE_DATA: lambda: ingest.validate(
                spec, stores, month, TableRef.from_json(source), chunks=chunks, origin=origin
            ),
            Task.BUILD_FEATURES: lambda: ingest.build_features(
                spec, stores, month, TableRef.from_json(source), chunks=chunks, origin=origin
            ),
            Task.SCORE_BATCH: lambda: score.score(spec, stores, month, chunks=chunks, origin=origin),
        }
        return finish[step]().as_json()

    return peak_of(work, tidy=False)


def warm(_: int) -> None:
    """Load what Airflow's workers load before they fork."""
    preload.warm(argv=("airflow", "scheduler"))
    time.sleep(0.5)


def through(place: Path, workers: int) -> dict[str, dict[str, float]]:
    """Send the month through all steps; seconds and megabytes of each."""
    name = f"workers-{workers}"
    opened(place, name).ledger.propose_traffic("flight_delays", {"1": 100}, settled=True, expected_generation=0)
    found: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(warm, range(4 * workers)))
        reference = None
        for step in (Task.LAND_DATA, Task.VALIDATE_DATA, Task.BUILD_FEATURES, Task.SCORE_BATCH):
            began = time.perf_counter()
            given = None if step == Task.SCORE_BATCH else reference
            planned = pool.submit(forked, place, name, str(step), "plan", given).result()
            running = [pool.submit(forked, place, name, str(step), "chunk", chunk) for chunk in planned["result"]]
            done = [each.result() for each in running]
            made = [each["result"] for each in done]
            ended = pool.submit(forked, place, name, str(step), "finish", (reference, made)).result()
            reference = ended["result"]
            found[str(step)] = {
                "seconds": time.perf_counter() - began,
                "alone": planned["seconds"] + ended["seconds"],
                "cpu": sum(each["cpu"] for each in (planned, *done, ended)),
                "peak": max(each["peak"] for each in (planned, *done, ended)),
            }
            took = found[str(step)]
            print(
                f"  {workers} worker{'s' * (workers > 1)}  {step:<16}{took['seconds']:8.1f} s  of it plan and commit "
                f"{took['alone']:6.1f} s, processor {took['cpu']:6.1f} s  {len(done):>4} chunks, at most "
                f"{max(each['peak'] for each in done):,.0f} MB each, {ended['peak']:,.0f} MB to commit",
                flush=True,
            )
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--chunk-rows", type=int, default=262_144)
    arguments.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    given = arguments.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    print(machine())
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        place = Path(folder)
        prepared(place, given.rows, given.chunk_rows)
        totals, peaks, contents = {}, {}, set()
        for workers in given.workers:
            print(load())
            found = through(place, workers)
            totals[workers] = sum(step["seconds"] for step in found.values())
            peaks[workers] = max(step["peak"] for step in found.values())
            processor = sum(step["cpu"] for step in found.values())
            tables = opened(place, f"workers-{workers}").tables
            uri = tables.uri("flight_delays", Table.FEATURES)
            contents.add(tables.content(uri, MONTH))
            rows = len(tables.rows(TableRef(uri, tables.version(uri) or 0, MONTH)))
            who = f"{rows:,} rows, {workers} worker{'s' * (workers > 1)}"
            print(f"{who}: {totals[workers]:.1f} s, processor {processor:.1f} s")
    print(f"features have one content however many workers: {len(contents) == 1}")
    target("most memory of a task, libraries included, MB", max(peaks.values()), LIMIT_MB)
    if {1, 2} <= set(totals):
        target("two workers, times as fast as one", totals[1] / totals[2], 1.6, at_least=True)


if __name__ == "__main__":
    main()

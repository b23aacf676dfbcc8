"""
Parsing the DAGs of many models, each from a ``model.yaml`` of its own, beside the same DAGs made of empty operators.

A file is read, built and serialised as Airflow's DAG processor does it, in a fresh process with warm bytecode that has
imported Airflow and the operators already; six DAGs per model. The ratio is that of CPU time, which a busy machine
disturbs least.
``--models 5`` makes it smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from measure import ROOT, figure, machine, target

OURS = """
from datetime import UTC, datetime
from pathlib import Path
from airflow.sdk import DAG, PartitionedAssetTimetable
from mlops_provider.stages.deploy import deploy, deploy_params, rollback, rollback_params
from mlops_provider.stages.ingest import features_of, ingest
from mlops_provider.stages.monitor import monitor
from mlops_provider.stages.score import score
from mlops_provider.stages.timetables import monthly
from mlops_provider.stages.train import train, train_params
MODEL = str(Path(__file__).parent / "model.yaml")
NAME = Path(__file__).parent.name
with DAG(f"{NAME}_ingest", schedule=monthly(), start_date=datetime(2013, 1, 1, tzinfo=UTC), catchup=False):
    ingest(MODEL)
with DAG(f"{NAME}_score", schedule=PartitionedAssetTimetable(assets=features_of(MODEL)), catchup=False):
    score(MODEL)
with DAG(f"{NAME}_monitor", schedule=monthly(), start_date=datetime(2013, 1, 1, tzinfo=UTC), catchup=False):
    monitor(MODEL, train_dag=f"{NAME}_train")
with DAG(f"{NAME}_train", schedule=None, params=train_params()):
    train(MODEL, deploy_dag=f"{NAME}_deploy")
with DAG(f"{NAME}_deploy", schedule=None, params=deploy_params()):
    deploy(MODEL)
with DAG(f"{NAME}_rollback", schedule=None, params=rollback_params()):
    rollback(MODEL)
"""

# The same DAGs, tasks and edges: the shapes are read off ours.
EMPTY = """
from datetime import UTC, datetime
from pathlib import Path
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, CronPartitionTimetable, Param, PartitionedAssetTimetable
NAME = Path(__file__).parent.name
SHAPES = {shapes}
def monthly():
    return CronPartitionTimetable("0 0 1 * *", timezone="UTC", run_offset=-1, key_format="%Y-%m")
for stage, shape in SHAPES.items():
    schedule = {{
        "ingest": monthly, "monitor": monthly, "score": lambda: PartitionedAssetTimetable(assets=Asset(NAME)),
    }}.get(stage, lambda: None)()
    params = {{name: Param(None, type=["null", "string"]) for name in shape["params"]}}
    with DAG(f"{{NAME}}_{{stage}}", schedule=schedule, start_date=datetime(2013, 1, 1, tzinfo=UTC), catchup=False,
             params=params):
        tasks = {{task: EmptyOperator(task_id=task) for task in shape["tasks"]}}
        for task, after in shape["edges"]:
            tasks[task] >> tasks[after]
"""

# What Airflow's DAG processor does with a file, without the start of its process.
PARSE = """
import json, logging, resource, sys, time
from pathlib import Path
import structlog
import airflow.providers.standard.operators.empty
from airflow.dag_processing.processor import DagFileParseRequest, _parse_file
root = Path(sys.argv[1])
logging.disable(logging.WARNING)
def parse(file):
    request = DagFileParseRequest(file=str(file), bundle_path=root, bundle_name="bench")
    result = _parse_file(request, structlog.get_logger())
    assert not result.import_errors, result.import_errors
    return [dag.data["dag"] for dag in result.serialized_dags]
files = sorted(root.glob("*/dags.py"))
first = parse(files[0])  # what a process imports once is not the price of a model
began, cpu = time.perf_counter(), time.process_time()
dags = tasks = 0
for file in files[1:]:
    found = parse(file)
    dags += len(found)
    tasks += sum(len(dag["tasks"]) for dag in found)
took = [time.perf_counter() - began, time.process_time() - cpu]
shapes = {
    dag["dag_id"].rpartition("_")[2]: {
        "tasks": [task["__var"]["task_id"] for task in dag["tasks"]],
        "edges": [[task["__var"]["task_id"], after] for task in dag["tasks"]
                  for after in task["__var"].get("downstream_task_ids", [])],
        "params": [name for name, _ in dag.get("params", [])],
    }
    for dag in first
}
print(json.dumps({"seconds": took[0], "cpu": took[1], "dags": dags, "tasks": tasks, "shapes": shapes,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def models(folder: Path, count: int, code: str) -> Path:
    """Write the use cases with their DAG files, one more than counts: the first warms the process up."""
    for number in range(count + 1):
        place = folder / f"model_{number:04}"
        shutil.copytree(ROOT / "include/flight_delays", place, ignore=shutil.ignore_patterns("__pycache__"))
        declared = (place / "model.yaml").read_text()
        (place / "model.yaml").write_text(declared.replace("name: flight_delays\n", f"name: {place.name}\n"))
        (place / "dags.py").write_text(code)
    return folder


def parsed(folder: Path, runs: int, bytecode: Path) -> list[dict[str, Any]]:
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(bytecode), "MLOPS_PRELOAD": "0"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    answers = []
    for _ in range(runs + 1):
        run = subprocess.run(
            [sys.executable, "-c", PARSE, str(folder)], env=environment, capture_output=True, text=True, check=True
        )
        answers.append(json.loads(run.stdout.strip().splitlines()[-1]))
        print(f"  {folder.name}: {answers[-1]['cpu']:.2f} s of processor time", flush=True)
    return answers[1:]


def compared(count: int, runs: int) -> float:
    """Print both figures for *count* models; the ratio of their medians."""
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as root:
        bytecode = Path(root) / "bytecode"
        ours = parsed(models(Path(root) / "ours", count, OURS), runs, bytecode)
        empty = parsed(models(Path(root) / "empty", count, EMPTY.format(shapes=ours[0]["shapes"])), runs, bytecode)
    assert [ours[0][name] for name in ("dags", "tasks")] == [empty[0][name] for name in ("dags", "tasks")]
    for name, answers in (("ours", ours), ("empty operators", empty)):
        say = f"{count:,} models, {answers[0]['dags']:,} DAGs, {name}"
        figure(f"{say}, CPU", [each["cpu"] for each in answers])
        figure(say, [each["seconds"] for each in answers])
    ratio = median(each["cpu"] for each in ours) / median(each["cpu"] for each in empty)
    target(f"{count:,} models, times empty operators (the target is that of 50)", ratio, 1.2)
    print(f"{count:,} models: peak memory {ours[0]['megabytes']:,.0f} MB, empty {empty[0]['megabytes']:,.0f} MB")
    return ratio


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--models", type=int, nargs="*", default=[50, 1000])
    arguments.add_argument("--runs", type=int, default=3)
    given = arguments.parse_args()
    print(machine())
    for number in given.models:
        compared(number, given.runs)

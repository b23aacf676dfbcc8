"""What importing the provider and parsing the DAGs costs beyond ``import airflow.sdk``."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from measure import ROOT, figure, machine

IMPORTS = """
import importlib, json, pkgutil, sys, time
import airflow.sdk
before, began = set(sys.modules), time.perf_counter()
for package in ("operators", "sensors", "stages"):
    module = importlib.import_module("mlops_provider." + package)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(module.__name__ + "." + found.name)
print(json.dumps([time.perf_counter() - began, len(set(sys.modules) - before)]))
"""
DAGS = """
import importlib.util, json, sys, time
from pathlib import Path
import airflow.sdk
before, began = set(sys.modules), time.perf_counter()
for file in sorted(Path("dags").glob("*.py")):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(json.dumps([time.perf_counter() - began, len(set(sys.modules) - before)]))
"""


def measured(code: str, runs: int) -> tuple[list[float], int]:
    """Run *code* in fresh processes."""
    answers = []
    for _ in range(runs + 1):
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        answers.append(json.loads(run.stdout.strip().splitlines()[-1]))
    return [answer[0] for answer in answers[1:]], int(median(answer[1] for answer in answers))


if __name__ == "__main__":
    print(machine())
    times, modules = measured(IMPORTS, 5)
    figure(f"import all operators and stages ({modules} modules)", times, "under 60 modules")
    times, modules = measured(DAGS, 5)
    figure(f"parse the six DAG files ({modules} modules)", times, "under 0.5 s")

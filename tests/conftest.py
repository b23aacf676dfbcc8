"""What every test may rely on: an Airflow home of its own, no settings of the developer, no telemetry, few threads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
AIRFLOW_HOME = tempfile.mkdtemp(prefix="mlops-tests-")

# Libraries read these when they are imported, which happens while tests are collected: a fixture would come too late.
# MLOPS_TEST_* are knobs of the tests themselves.
for name in list(os.environ):
    if name.startswith(("AIRFLOW_", "AWS_", "MLFLOW_", "MLOPS_")) and not name.startswith("MLOPS_TEST_"):
        del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": AIRFLOW_HOME,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME}/airflow.db",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # On two cores, two tests' thread pools are slower than one thread each.
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind, which is the folder it lives in: `pytest -m unit`."""
    for item in items:
        kind = item.path.relative_to(TESTS).parts[0]
        if kind in ("unit", "integration", "system"):
            item.add_marker(kind)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the Airflow home with everything the tests wrote into it."""
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)

"""adult_income: data, features and estimator fit what its model.yaml declares, and its DAGs load."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_provider.adapters import features as feature_frames
from mlops_provider.adapters import tasks, validation
from mlops_provider.core import partitions
from mlops_provider.spec import load_spec

PROJECT = Path(__file__).resolve().parents[1]
SPEC = load_spec(PROJECT / "include/adult_income/model.yaml")
MONTH, NEXT = "2025-01", "2025-02"
DAGS = sorted((PROJECT / "dags").glob("adult_income_*.py"))
MOST_ROWS = 2000
LOAD = """
import runpy, sys
from airflow.sdk import DAG
found, enter = [], DAG.__enter__
DAG.__enter__ = lambda dag: found.append(dag.dag_id) or enter(dag)
for file in sys.argv[1:]:
    runpy.run_path(file)
print(*found)
"""


@pytest.fixture(scope="module")
def landed() -> pd.DataFrame:
    return SPEC.function("land")(MONTH)


@pytest.fixture(scope="module")
def described(landed: pd.DataFrame) -> pd.DataFrame:
    return SPEC.function("features")(landed, landed.head(0), partitions.end(MONTH))


@pytest.fixture(scope="module")
def outcomes() -> pd.DataFrame:
    return SPEC.function("outcomes")(MONTH)


def test_the_first_month_meets_what_blocks(landed: pd.DataFrame) -> None:
    expectations = validation.load_expectations(SPEC.expectations_path)

    assert validation.validate(landed, expectations).blocking == ()


def test_the_target_does_not_land(landed: pd.DataFrame) -> None:
    assert SPEC.target.name not in landed


def test_the_features_are_as_declared(landed: pd.DataFrame, described: pd.DataFrame) -> None:
    # A month of another time zone begins and ends some hours before or after that of UTC.
    start, end = partitions.start(MONTH) - timedelta(days=1), partitions.end(MONTH) + timedelta(days=1)

    kept = feature_frames.checked_features(described, SPEC, MONTH, rows=len(landed), start=start, end=end)

    assert len(kept) == len(landed)


def test_a_row_described_alone_has_the_features_it_has_among_others(
    landed: pd.DataFrame, described: pd.DataFrame
) -> None:
    few = SPEC.function("features")(landed.head(3), landed.head(0), partitions.end(MONTH))

    pd.testing.assert_frame_equal(few, described.head(3))


def test_outcomes_belong_to_landed_rows(landed: pd.DataFrame, outcomes: pd.DataFrame) -> None:
    keys = list(SPEC.keys)

    assert not outcomes.duplicated(keys).any()
    assert len(outcomes.merge(landed[keys].drop_duplicates(), on=keys)) == len(outcomes)
    assert len(outcomes[SPEC.target.name].unique()) > 1


def test_the_estimator_learns_and_predicts_the_next_month(described: pd.DataFrame, outcomes: pd.DataFrame) -> None:
    columns = list(SPEC.feature_columns)
    known = described.merge(outcomes, on=list(SPEC.keys)).head(MOST_ROWS)
    model = SPEC.function("estimator")({"max_iter": 20}).fit(known[columns], known[SPEC.target.name])

    rows = SPEC.function("land")(NEXT).head(MOST_ROWS)
    rows = SPEC.function("features")(rows, rows.head(0), partitions.end(NEXT))

    assert np.isfinite(tasks.of_model(model).predict(model, rows[columns])).all()


def test_every_dag_loads_and_is_called_like_its_file(tmp_path: Path) -> None:
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}

    run = subprocess.run(
        (sys.executable, "-W", "ignore", "-c", LOAD, *map(str, DAGS)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-1].split() == [file.stem for file in DAGS]

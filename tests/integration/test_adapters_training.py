"""Search, fit and baselines with the real Optuna and scikit-learn."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_info

from mlops_provider.adapters import evaluation, training
from mlops_provider.exceptions import DataRejectedError
from support.stack import ROOT

pytestmark = pytest.mark.integration


def examples(rows: int = 400, seed: int = 0) -> training.Examples:
    rng = np.random.default_rng(seed)
    distance = rng.normal(size=rows)
    carrier = rng.choice(["AA", "UA", "WN"], rows)
    late = (rng.random(rows) < 1 / (1 + np.exp(-2 * distance - (carrier == "WN")))).astype(float)
    return training.Examples(pd.DataFrame({"distance": distance, "carrier": carrier}), late)


def numbers_only(rows: int = 400, seed: int = 0) -> training.Examples:
    every = examples(rows, seed)
    return training.Examples(every.X[["distance"]], every.y)


def tree(params: Mapping[str, Any]) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(random_state=0, **params)


def depths(trial: optuna.Trial) -> dict[str, Any]:
    return {"max_depth": trial.suggest_int("max_depth", 1, 3), "min_samples_leaf": trial.suggest_int("leaf", 5, 50)}


def searched(space: Any = depths, **changes: Any) -> training.Search:
    settings = {"metric": "roc_auc", "trials": 6, "timeout_seconds": None, "seed": 3, "threads": 1, **changes}
    return training.search(tree, space, numbers_only(), numbers_only(seed=1), **settings)


def test_a_search_gives_parameters_as_the_estimator_takes_them_and_their_validation_score() -> None:
    found = searched()

    fitted = training.fit(tree(found.params), numbers_only(), threads=1)
    later = numbers_only(seed=1)
    again = evaluation.score("roc_auc", training.predictions(fitted, later.X, threads=1), later.y)
    assert set(found.params) == {"max_depth", "min_samples_leaf"}
    assert (found.trials, found.cut) == (6, False)
    assert found.score == pytest.approx(again)


def test_the_same_seed_finds_the_same_parameters() -> None:
    assert searched() == searched()


def test_a_loss_is_minimised() -> None:
    assert searched(metric="brier").score < 0.25


def test_no_trial_starts_after_the_time_limit() -> None:
    found = searched(trials=1000, timeout_seconds=0.2)

    assert found.trials < 1000
    assert found.cut


def test_a_best_value_on_its_limit_is_named_with_the_limit() -> None:
    found = searched(lambda trial: {"ccp_alpha": trial.suggest_float("ccp_alpha", 0.2, 0.2001)}, trials=2)
    fixed = searched(lambda trial: {"max_depth": trial.suggest_int("max_depth", 2, 2)}, trials=2)
    one_sided = searched(lambda trial: {"max_depth": trial.suggest_int("max_depth", 1, 2)}, trials=4)

    assert fixed.on_limit == ()
    assert one_sided.on_limit == ("max_depth=2 lies on its upper limit 2: widen the range.",)
    assert found.trials == 2


def test_validation_is_the_last_partition() -> None:
    rows = pd.DataFrame(
        {
            "partition": ["2013-01", "2013-03", "2013-02", "2013-03"],
            "departure": pd.date_range("2013-01-01", periods=4, tz="UTC"),
        }
    )

    later = training.time_split(rows, partition="partition", event_time="departure")

    assert later.tolist() == [False, True, False, True]


def test_validation_within_one_partition_is_its_last_fifth_in_time() -> None:
    departures = pd.date_range("2013-01-01", periods=100, freq="h", tz="UTC")
    rows = pd.DataFrame({"partition": "2013-01", "departure": departures}).sample(frac=1, random_state=0)

    later = training.time_split(rows, partition="partition", event_time="departure")

    assert later.sum() == 20
    assert rows["departure"][later].min() > rows["departure"][~later].max()


def test_a_sample_keeps_rows_and_outcomes_together() -> None:
    every = examples()

    part = every.sample(50, seed=1)

    assert len(part) == 50
    np.testing.assert_array_equal(every.y[part.X.index], part.y)
    assert every.sample(None, seed=1) is every
    assert every.sample(1000, seed=1) is every


def test_baselines_beat_nothing_and_something() -> None:
    fitted = training.baselines(examples(), numeric=["distance"], categorical=["carrier"], threads=1)

    later = examples(seed=1)
    dummy, linear = (training.predictions(fitted[name], later.X, threads=1) for name in ("dummy", "linear"))
    assert evaluation.score("roc_auc", dummy, later.y) == 0.5
    assert evaluation.score("roc_auc", linear, later.y) > 0.7


def test_baselines_take_missing_values_and_categories_they_never_saw() -> None:
    early, later = examples(), examples(seed=1)
    early.X.loc[:5, "distance"] = np.nan
    early.X["seats"] = np.nan
    later.X.loc[:5, "carrier"] = "ZZ"
    later.X.loc[6:9, "carrier"] = None
    later.X["seats"] = 100.0

    fitted = training.baselines(early, numeric=["distance", "seats"], categorical=["carrier"], threads=1)

    assert np.isfinite(training.predictions(fitted["linear"], later.X, threads=1)).all()


def test_outcomes_that_are_all_alike_are_refused() -> None:
    every = numbers_only()

    with pytest.raises(DataRejectedError, match=r"400 rows with 1 class\(es\)"):
        training.fit(tree({}), training.Examples(every.X, np.zeros(400)), threads=1)


def test_threads_are_bounded_while_fitting_only() -> None:
    training.fit(HistGradientBoostingClassifier(max_iter=2), numbers_only(), threads=1)
    before = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}

    with training.bounded_threads(1):
        inside = {pool["num_threads"] for pool in threadpool_info()}

    assert inside == {1}
    assert {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()} == before


def test_requirements_are_pinned_to_what_is_installed() -> None:
    pinned = dict(line.split("==") for line in training.pinned_requirements())

    assert {"scikit-learn", "numpy", "pandas", "skops", "joblib"} <= set(pinned)
    assert pinned["scikit-learn"] == metadata.version("scikit-learn")


def test_waiting_threads_let_others_have_the_cores() -> None:
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    asked = subprocess.run(
        [sys.executable, "-c", "from mlops_provider.adapters import training; from sklearn import ensemble"],
        env={**variables, "OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT / "plugins")},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "GOMP_SPINCOUNT = '0'" in asked.stderr

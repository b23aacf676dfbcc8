"""The estimator: gradient-boosted trees on the feature columns. Library types only: a server needs no code of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

WORDS = ["origin"]
DEFAULTS = {"learning_rate": 0.06, "max_iter": 150, "max_leaf_nodes": 15, "min_samples_leaf": 20}


def estimator(params: Mapping[str, Any]) -> Pipeline:
    """
    Return an unfitted pipeline from feature columns to the change of the temperature in six hours, °F.

    Missing numbers go to the trees as they are; airports become numbers in alphabetical order, unknown ones -1.

    :param params: Parameters of ``HistGradientBoostingRegressor`` that differ from the defaults.
    """
    trees = HistGradientBoostingRegressor(early_stopping=False, random_state=0, **{**DEFAULTS, **params})
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("words", words, WORDS)], remainder="passthrough", verbose_feature_names_out=False)
    return Pipeline([("columns", columns), ("trees", trees)])


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Return one set of parameters to try."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 7, 63, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 5, 80, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 0.01, 10.0, log=True),
    }

"""Boosted trees that predict minutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder


def estimator(params: Mapping[str, Any]) -> Pipeline:
    """Return an unfitted pipeline; the same parameters and rows give the same model."""
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("words", words, ["line"])], remainder="passthrough", verbose_feature_names_out=False)
    settings = {"max_iter": 60, "min_samples_leaf": 10, **params}
    return Pipeline(
        [
            ("columns", columns),
            ("trees", HistGradientBoostingRegressor(early_stopping=False, random_state=0, **settings)),
        ]
    )


def space(trial: optuna.Trial) -> dict[str, Any]:
    """Return one set of parameters to try."""
    return {"max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 5, 15)}

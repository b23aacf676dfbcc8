"""ONNX graphs of fitted estimators: the same predictions, the same refusals, for few rows and for many."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from mlops_provider.adapters import conversion, tasks
from mlops_provider.adapters.scorers import TABLES_FROM, EstimatorScorer, OnnxScorer
from mlops_provider.core.columns import Column

COLUMNS = (
    Column("wind", "number"),
    Column("hour", "whole"),
    Column("holiday", "flag"),
    Column("carrier", "text"),
    Column("gate", "text"),
)
WORDS = ["carrier", "gate"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """More than the tables need, with missing numbers and text, and rare categories."""
    random = np.random.default_rng(0)
    count = 2 * TABLES_FROM
    frame = pd.DataFrame(
        {
            "wind": random.normal(size=count),
            "hour": random.integers(0, 24, count),
            "holiday": random.random(count) < 0.3,
            "carrier": random.choice(["AA", "DL", "UA", "HA", "OO"], count, p=[0.5, 0.3, 0.19, 0.005, 0.005]),
            "gate": random.choice(["north", "south", None], count),
        }
    ).astype({"carrier": object})
    frame.loc[random.random(count) < 0.05, "wind"] = np.nan
    return frame


@pytest.fixture(scope="module")
def late(rows: pd.DataFrame) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=len(rows))
    return (rows["wind"].fillna(0) + rows["hour"] / 12 + (rows["carrier"] == "AA") + noise > 1.5).to_numpy(int)


def ordinal(**changes: Any) -> ColumnTransformer:
    asked = {"handle_unknown": "use_encoded_value", "unknown_value": -1, **changes}
    return ColumnTransformer([("words", OrdinalEncoder(**asked), WORDS)], remainder="passthrough")


def linear() -> ColumnTransformer:
    return make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), ["wind", "hour"]),
        (OneHotEncoder(min_frequency=0.01, handle_unknown="infrequent_if_exist", sparse_output=False), WORDS),
    )


def mixed() -> ColumnTransformer:
    return make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="mean"), RobustScaler()), ["wind"]),
        (MinMaxScaler(clip=True), ["hour", "holiday"]),
        (make_pipeline(SimpleImputer(missing_values=None, strategy="most_frequent"), OneHotEncoder()), ["gate"]),
        (TargetEncoder(), ["carrier"]),
        (OneHotEncoder(handle_unknown="ignore"), ["hour"]),
    )


RARE = {"unknown_value": np.nan, "encoded_missing_value": -5, "min_frequency": 0.01}
CASES = {
    "boosted": (ordinal(), HistGradientBoostingClassifier(max_iter=30)),
    "boosted, rare words together": (ordinal(**RARE), HistGradientBoostingClassifier(max_iter=10)),
    "boosted, words as categories": (
        ordinal(unknown_value=np.nan),
        HistGradientBoostingClassifier(max_iter=20, categorical_features=[0, 1]),
    ),
    "boosted, more leaves than 32": (ordinal(), HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=60)),
    "boosted, more leaves than 64": (ordinal(), HistGradientBoostingRegressor(max_iter=5, max_leaf_nodes=90)),
    "boosted numbers": (ordinal(), HistGradientBoostingRegressor(max_iter=10)),
    "boosted counts": (ordinal(), HistGradientBoostingRegressor(loss="poisson", max_iter=10)),
    "boosted, unknown refused": (
        ordinal(handle_unknown="error", unknown_value=None),
        HistGradientBoostingClassifier(max_iter=5),
    ),
    "forest": (ordinal(), RandomForestClassifier(10, min_samples_leaf=5, random_state=0)),
    "extra trees": (linear(), ExtraTreesRegressor(5, max_depth=8, random_state=0)),
    "staged": (linear(), GradientBoostingClassifier(n_estimators=5)),
    "logistic": (linear(), LogisticRegression()),
    "ridge": (linear(), Ridge()),
    "mixed": (mixed(), LogisticRegression(max_iter=500)),
}


def fitted(columns: ColumnTransformer, model: Any, rows: pd.DataFrame, late: np.ndarray) -> Pipeline:
    taken = rows.drop(columns="holiday") if "categor" in str(model) else rows  # scikit-learn: no flags beside them
    return make_pipeline(columns, model).fit(taken, late)


def cells(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    return {str(name): rows[name].to_numpy() for name in rows}


@pytest.mark.parametrize("case", CASES)
def test_a_graph_predicts_as_the_estimator_does(case: str, rows: pd.DataFrame, late: np.ndarray) -> None:
    model = fitted(*CASES[case], rows, late)
    columns = [each for each in COLUMNS if each.name in model.feature_names_in_]

    graph = conversion.converted(model, columns, rows.head(1))
    # Also rows without a cell, rows with unknown words, and few rows at once.
    assert conversion.largest_difference(graph, model, columns, rows) < 1e-13

    scorer = OnnxScorer(graph)
    assert scorer.columns == tuple(columns)
    alone = tasks.of_model(model).predict(model, rows[[each.name for each in columns]])
    table = scorer.predict_table(pa.Table.from_pandas(rows, preserve_index=False))
    one = [scorer.predict(cells(rows.iloc[[row]]))[0] for row in range(20)]
    np.testing.assert_allclose(table, alone, rtol=0, atol=1e-13)
    np.testing.assert_allclose(one, alone[:20], rtol=0, atol=1e-13)


def test_numbers_beside_a_threshold_go_the_same_way(rows: pd.DataFrame, late: np.ndarray) -> None:
    model = HistGradientBoostingClassifier(max_iter=30).fit(rows[["wind", "hour"]], late)
    nodes = np.concatenate([tree.nodes for (tree,) in model._predictors])
    limits = np.unique(nodes["num_threshold"][(nodes["feature_idx"] == 0) & (nodes["is_leaf"] == 0)])
    beside = np.concatenate([limits, np.nextafter(limits, np.inf), np.nextafter(limits, -np.inf), [np.inf, -np.inf]])
    near = pd.DataFrame({"wind": np.tile(beside, 1 + TABLES_FROM // len(beside)), "hour": 12})
    columns = COLUMNS[:2]
    scorer = OnnxScorer(conversion.converted(model, columns, rows.head(1)))

    alone = model.predict_proba(near)[:, 1]

    assert np.abs(scorer.predict(cells(near)) - alone).max() < 1e-13
    assert np.abs(scorer.predict(cells(near.head(len(beside)))) - alone[: len(beside)]).max() < 1e-13
    in_single = near.astype({"wind": "float32"}).astype("float64")
    assert np.abs(model.predict_proba(in_single)[:, 1] - alone).max() > 1e-6  # what doubles are for


def test_missing_and_infinite_numbers_are_refused_where_the_model_refuses_them(
    rows: pd.DataFrame, late: np.ndarray
) -> None:
    known = rows.fillna({"wind": 0.0})
    model = LogisticRegression().fit(known[["wind", "hour"]], late)
    scorer = OnnxScorer(conversion.converted(model, COLUMNS[:2], known.head(1)))

    for strange, said in ((np.nan, "'wind' must not be missing"), (np.inf, "'wind' must be finite")):
        with pytest.raises(ValueError, match=said):
            scorer.predict(cells(known.head(3).assign(wind=[0.0, strange, 1.0])))


class Doubled(FunctionTransformer):
    """A transformer of somebody's own."""


@pytest.mark.parametrize(
    ("columns", "model", "said"),
    [
        (
            make_column_transformer((Doubled(), ["hour"])),
            LogisticRegression(),
            r"no exact counterpart for .*\.Doubled$",
        ),
        (make_column_transformer((KBinsDiscretizer(), ["hour"])), LogisticRegression(), "KBinsDiscretizer"),
        (
            make_pipeline(make_column_transformer(("passthrough", ["hour"])), StandardScaler(), OneHotEncoder()),
            LogisticRegression(),
            "OneHotEncoder stands behind another transformer",
        ),
    ],
)
def test_what_has_no_exact_counterpart_is_named(
    columns: Any, model: Any, said: str, rows: pd.DataFrame, late: np.ndarray
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make_pipeline(columns, model).fit(rows, late)

    with pytest.raises(conversion.NotConvertibleError, match=said):
        conversion.converted(made, COLUMNS, rows.head(1))


def test_a_graph_of_another_model_is_told_by_its_predictions(rows: pd.DataFrame, late: np.ndarray) -> None:
    one, other = (Ridge(alpha).fit(rows[["hour"]], late) for alpha in (0.1, 1000))
    graph = conversion.converted(one, COLUMNS[1:2], rows.head(1))

    with pytest.raises(conversion.NotConvertibleError, match=r"2,048 real rows are predicted differently.*allowed are"):
        conversion.largest_difference(graph, other, COLUMNS[1:2], rows)


def test_the_estimator_itself_scores_a_table_as_it_scores_cells(rows: pd.DataFrame, late: np.ndarray) -> None:
    scorer = EstimatorScorer(fitted(*CASES["boosted"], rows, late), COLUMNS)

    by_table = scorer.predict_table(pa.Table.from_pandas(rows, preserve_index=False))

    np.testing.assert_array_equal(by_table, scorer.predict(cells(rows)))


def test_an_empty_table_has_no_predictions(rows: pd.DataFrame, late: np.ndarray) -> None:
    model = fitted(*CASES["boosted"], rows, late)
    scorer = OnnxScorer(conversion.converted(model, COLUMNS, rows.head(1)))

    assert scorer.predict_table(pa.Table.from_pandas(rows.head(0), preserve_index=False)).shape == (0,)

"""The composite of a parent and its children: routing, order, and its files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import is_classifier, is_regressor
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_provider.adapters import segmented, tasks, training
from mlops_provider.adapters.segmented import Segmented
from mlops_provider.exceptions import ConfigurationError, ServingCheckError
from mlops_provider.stores import model_files

VALUES = ["AA", "UA", "B6"]


def rows(number: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(seed)
    X = pd.DataFrame({"distance": random.normal(size=number), "carrier": random.choice(VALUES, number)})
    slope = X["carrier"].map({"AA": 2.0, "UA": -2.0, "B6": 0.5}).to_numpy()
    return X, X["distance"].to_numpy() * slope + random.normal(size=number)


def pipeline(model: object) -> Pipeline:
    words = OneHotEncoder(handle_unknown="ignore")
    return make_pipeline(make_column_transformer((words, ["carrier"]), remainder="passthrough"), model)


def made(kind: type, children: tuple[str, ...] = ("AA", "UA")) -> Segmented:
    X, y = rows(600)
    y = (y > 0).astype(np.float64) if kind is LogisticRegression else y
    of = {value: (X["carrier"] == value).to_numpy() for value in children}
    return Segmented(
        pipeline(kind()).fit(X, y),
        {value: pipeline(kind()).fit(X[mask], y[mask]) for value, mask in of.items()},
        "carrier",
    )


CLASSIFIER, REGRESSOR = made(LogisticRegression), made(LinearRegression)


@given(
    carriers=st.lists(st.sampled_from([*VALUES, "unknown", None, np.nan, "parent"]), min_size=1, max_size=30),
    model=st.sampled_from([CLASSIFIER, REGRESSOR]),
)
@settings(max_examples=40, deadline=None)
def test_every_row_is_answered_by_its_own_model_in_its_own_place(carriers: list[object], model: Segmented) -> None:
    X = pd.DataFrame({"distance": np.linspace(-2, 2, len(carriers)), "carrier": np.array(carriers, dtype=object)})
    task = tasks.of_model(model)

    found, names = task.predict(model, X), model.answered_by(X)

    for number, carrier in enumerate(carriers):
        alone = model.children.get(carrier, model.parent) if isinstance(carrier, str) else model.parent
        assert found[number] == pytest.approx(task.predict(alone, X.iloc[[number]])[0], abs=1e-12)
        assert names[number] == (carrier if carrier in ("AA", "UA") else "parent")


def test_it_is_what_its_parent_is() -> None:
    assert is_classifier(CLASSIFIER)
    assert is_regressor(REGRESSOR)
    assert not hasattr(REGRESSOR, "predict_proba")
    assert list(CLASSIFIER.feature_names_in_) == ["distance", "carrier"]
    assert list(CLASSIFIER.classes_) == [0.0, 1.0]
    assert tasks.of_model(CLASSIFIER) is tasks.BINARY
    assert tasks.of_model(REGRESSOR) is tasks.REGRESSION


def test_without_children_the_parent_answers_everything_and_no_rows_get_no_answers() -> None:
    alone, (X, _) = made(LinearRegression, ()), rows(50, 3)

    assert np.array_equal(alone.predict(X), alone.parent.predict(X))
    assert set(alone.answered_by(X)) == {"parent"}
    assert alone.answered_by(X.iloc[:0]).shape == (0,)


def test_whatever_the_index_of_the_rows_their_order_is_kept() -> None:
    X, _ = rows(40, 5)
    shuffled = X.set_axis(np.zeros(len(X), dtype=int))

    assert np.array_equal(CLASSIFIER.predict_proba(shuffled), CLASSIFIER.predict_proba(X))


def test_a_category_column_is_routed_like_text() -> None:
    X, _ = rows(40, 6)

    assert np.array_equal(CLASSIFIER.answered_by(X.astype({"carrier": "category"})), CLASSIFIER.answered_by(X))


def test_its_file_is_read_back_equal_and_nothing_untrusted_is_loaded() -> None:
    X, _ = rows(200, 7)
    content = model_files.packed(CLASSIFIER, trusted_types=segmented.TRUSTED_TYPES)

    again = model_files.unpacked(content, trusted_types=segmented.TRUSTED_TYPES)

    assert np.array_equal(again.predict_proba(X), CLASSIFIER.predict_proba(X))
    assert np.array_equal(again.answered_by(X), CLASSIFIER.answered_by(X))
    with pytest.raises(ServingCheckError, match="cannot be loaded"):
        model_files.unpacked(content, trusted_types=[])
    with pytest.raises(ServingCheckError, match="damaged"):
        model_files.unpacked(content[: len(content) // 2], trusted_types=segmented.TRUSTED_TYPES)
    with pytest.raises(ConfigurationError, match="mlops_provider.adapters.segmented.Segmented, which nobody reviewed"):
        model_files.packed(CLASSIFIER, trusted_types=training.TRUSTED_TYPES)


def test_loading_one_needs_this_package_and_says_so() -> None:
    assert any(line.startswith(f"{segmented.DISTRIBUTION}==") for line in training.pinned_requirements(own=True))
    assert not any(line.startswith(segmented.DISTRIBUTION) for line in training.pinned_requirements())

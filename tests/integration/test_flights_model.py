"""The flight example's estimator: library types only, at ease with what it never saw."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import optuna
import pandas as pd
import pytest
import skops.io
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from mlops_provider.adapters.training import TRUSTED_TYPES
from mlops_provider.spec import load_spec
from support import flights as small_flights

pytestmark = pytest.mark.integration

SPEC = load_spec(small_flights.MODEL_YAML)
COLUMNS = list(SPEC.feature_columns)


def labelled(month: str, before: str) -> pd.DataFrame:
    land, features, outcomes = (SPEC.function(name) for name in ("land", "features", "outcomes"))
    described = features(land(month), land(before), datetime(2014, 1, 1, tzinfo=UTC))
    return described.merge(outcomes(month), on=list(SPEC.keys))


@pytest.fixture(scope="module")
def february() -> pd.DataFrame:
    return labelled("2013-02", "2013-01")


@pytest.fixture(scope="module")
def model(february: pd.DataFrame) -> Pipeline:
    return SPEC.function("estimator")({}).fit(february[COLUMNS], february["late"])


def test_it_ranks_the_flights_of_the_next_month(model: Pipeline) -> None:
    march = labelled("2013-03", "2013-02")

    assert roc_auc_score(march["late"], model.predict_proba(march[COLUMNS])[:, 1]) > 0.7


def test_carriers_and_airports_it_never_saw_get_a_probability(model: Pipeline, february: pd.DataFrame) -> None:
    strange = february[COLUMNS].head(3).assign(carrier="ZZ", dest=None)

    assert np.isfinite(model.predict_proba(strange)).all()


def test_the_order_of_columns_does_not_matter(model: Pipeline, february: pd.DataFrame) -> None:
    rows = february[COLUMNS].head(50)

    assert (model.predict_proba(rows) == model.predict_proba(rows[rows.columns[::-1]])).all()


def test_fitting_twice_gives_the_same_model(model: Pipeline, february: pd.DataFrame) -> None:
    again = SPEC.function("estimator")({}).fit(february[COLUMNS], february["late"])

    rows = february[COLUMNS].head(500)
    assert (again.predict_proba(rows) == model.predict_proba(rows)).all()


def test_it_holds_no_type_that_a_server_does_not_trust(model: Pipeline) -> None:
    stored = skops.io.dumps(model)

    assert set(skops.io.get_untrusted_types(data=stored)) <= set(TRUSTED_TYPES)


def test_every_point_of_the_search_space_builds_an_estimator(february: pd.DataFrame) -> None:
    few = february.head(300)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    for _ in range(3):
        params = SPEC.function("space")(study.ask())
        fitted = SPEC.function("estimator")({**params, "max_iter": 2}).fit(few[COLUMNS], few["late"])
        assert fitted.predict_proba(few[COLUMNS]).shape == (300, 2)

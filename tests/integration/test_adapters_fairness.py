"""Rates of groups against scikit-learn's own on the same rows, and the features that give an attribute away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from mlops_provider.adapters import evaluation, fairness, tasks
from mlops_provider.core.fairness import Disparity, FairnessLimit

pytestmark = pytest.mark.integration


def people(rows: int = 1500, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Groups, outcomes and probabilities that favour one of them."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"sex": rng.choice(["f", "m"], rows, p=[0.4, 0.6])})
    frame["race"] = rng.choice(["a", "b", "c"], rows, p=[0.8, 0.16, 0.04])
    outcomes = (rng.random(rows) < np.where(frame["sex"] == "m", 0.4, 0.25)).astype(float)
    favoured = 0.1 * (frame["sex"] == "m").to_numpy()
    return frame, outcomes, np.clip(0.4 * outcomes + rng.normal(0.25, 0.2, rows) + favoured, 0.0, 1.0)


def measured(
    frame: pd.DataFrame, outcomes: np.ndarray, predictions: np.ndarray, **changes: object
) -> evaluation.Scores:
    settings = {
        "slices": [],
        "slice_metric": "roc_auc",
        "resamples": 100,
        "confidence": 0.95,
        "seed": 1,
        "protected": ["sex", "race"],
        "primary": "roc_auc",
        **changes,
    }
    return evaluation.evaluate({"candidate": predictions}, outcomes, frame, **settings)  # type: ignore[arg-type]


def by_measure(scores: evaluation.Scores, attribute: str = "sex") -> dict[str, Disparity]:
    return {each.measure: each for each in scores.disparities if each.attribute == attribute}


@pytest.mark.parametrize("seed", range(4))
def test_rates_of_a_group_are_those_of_scikit_learn_on_its_rows(seed: int) -> None:
    frame, outcomes, predictions = people(seed=seed)

    scores = measured(frame, outcomes, predictions)

    for group in scores.groups:
        rows = (frame[group.attribute] == group.group).to_numpy()
        truth, called = outcomes[rows], predictions[rows] > 0.5
        tn, fp, fn, tp = sk.confusion_matrix(truth, called).ravel()
        expected = {
            "selection_rate": called.mean(),
            "true_positive_rate": tp / (tp + fn),
            "false_positive_rate": fp / (fp + tn),
            "precision": sk.precision_score(truth, called),
            "roc_auc": sk.roc_auc_score(truth, predictions[rows]),
        }
        assert group.rows == rows.sum()
        assert {name: found.value for name, found in group.metrics.items()} == pytest.approx(expected, rel=1e-12)


def test_the_groups_furthest_apart_are_compared_and_named() -> None:
    frame, outcomes, predictions = people()

    found = by_measure(measured(frame, outcomes, predictions))

    rate = {sex: (predictions[frame["sex"] == sex] > 0.5).mean() for sex in ("f", "m")}
    parity = found["demographic_parity_difference"]
    assert (parity.lowest, parity.highest, parity.rate) == ("f", "m", "selection_rate")
    assert parity.score.value == pytest.approx(rate["m"] - rate["f"])
    assert found["demographic_parity_ratio"].score.value == pytest.approx(rate["f"] / rate["m"])
    tpr, fpr = (
        sk.recall_score(outcomes[frame["sex"] == "m"] == label, predictions[frame["sex"] == "m"] > 0.5)
        - sk.recall_score(outcomes[frame["sex"] == "f"] == label, predictions[frame["sex"] == "f"] > 0.5)
        for label in (1, 0)
    )
    assert found["equal_opportunity_difference"].score.value == pytest.approx(tpr)
    # The share of the negative that is called positive, which recall of "outcome is 0" is here.
    assert found["equalized_odds_difference"].score.value == pytest.approx(max(abs(tpr), abs(fpr)))


def test_intervals_come_from_the_resamples_and_may_hold_equality() -> None:
    frame, outcomes, predictions = people()
    alike = frame.assign(sex=np.random.default_rng(1).choice(["f", "m"], len(frame)))

    unequal, equal = (
        by_measure(measured(each, outcomes, predictions))["demographic_parity_difference"].score
        for each in (frame, alike)
    )

    assert unequal.low > 0
    assert equal.low < 0 < equal.high


def test_a_small_group_is_compared_only_where_a_limit_asks_for_it() -> None:
    frame, outcomes, predictions = people()
    small = int((frame["race"] == "c").sum())
    limits = [FairnessLimit("demographic_parity_difference", maximum=0.5, minimum_rows=small)]

    usual = by_measure(measured(frame, outcomes, predictions), "race")["demographic_parity_difference"]
    asked = by_measure(measured(frame, outcomes, predictions, fairness=limits), "race")

    assert small < 100
    assert usual.minimum_rows == 100
    assert "c" not in (usual.lowest, usual.highest)
    assert asked["demographic_parity_difference"].minimum_rows == small


def test_a_rate_that_a_group_leaves_undefined_is_left_out() -> None:
    frame, outcomes, predictions = people()
    never = frame.assign(sex=np.where(outcomes == 1, "m", frame["sex"]))

    scores = measured(never, outcomes, predictions, protected=["sex"])

    women = next(each for each in scores.groups if each.group == "f")
    assert {"true_positive_rate", "roc_auc"}.isdisjoint(women.metrics)
    assert set(by_measure(scores)) == {"demographic_parity_difference", "demographic_parity_ratio"}


def test_groups_that_are_never_selected_are_selected_equally_often() -> None:
    frame, outcomes, predictions = people()

    found = by_measure(measured(frame, outcomes, predictions / 10))

    assert found["demographic_parity_ratio"].score.value == 1.0


def test_rows_without_the_attribute_are_a_group_too() -> None:
    frame, outcomes, predictions = people()
    frame.loc[:200, "sex"] = None

    assert {"f", "m", "(missing)"} == {
        each.group for each in measured(frame, outcomes, predictions).groups if each.attribute == "sex"
    }


def test_numbers_are_compared_by_their_means_and_errors() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sex": rng.choice(["f", "m"], 1000)})
    women = (frame["sex"] == "f").to_numpy()
    outcomes = rng.normal(100, 20, 1000)
    predictions = outcomes + rng.normal(0, 5, 1000) - 8 * women

    scores = measured(
        frame, outcomes, predictions, task=tasks.REGRESSION, slice_metric="mae", primary="rmse", protected=["sex"]
    )

    found, errors = by_measure(scores), predictions - outcomes
    assert set(found) == {"mean_prediction_difference", "mean_error_difference", "mae_difference"}
    assert found["mean_error_difference"].score.value == pytest.approx(errors[~women].mean() - errors[women].mean())
    assert found["mae_difference"].highest == "f"
    assert {each.group: each.metrics["rmse"].value for each in scores.groups} == pytest.approx(
        {
            sex: sk.root_mean_squared_error(outcomes[rows], predictions[rows])
            for sex, rows in (("f", women), ("m", ~women))
        }
    )


def test_a_feature_that_tells_the_attribute_is_named_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    sex = rng.choice(["f", "m"], 3000)
    frame = pd.DataFrame(
        {
            "sex": sex,
            "relationship": np.where(sex == "m", rng.choice(["husband", "single"], 3000), "wife"),
            "hours": rng.normal(40, 5, 3000) + 4 * (sex == "m"),
            "day": rng.choice(list("abcd"), 3000),
            "empty": np.nan,
        }
    )
    settings = {"numeric": ["hours", "empty"], "categorical": ["relationship", "day"], "limit": 0.65, "seed": 0}

    found = fairness.proxies(frame, ["sex"], **settings)  # type: ignore[arg-type]

    assert [each.feature for each in found] == ["relationship", "hours"]
    assert found[0].auc > 0.99
    # Two normal distributions 4/5 of a standard deviation apart.
    assert found[1].auc == pytest.approx(0.714, abs=0.03)


def test_a_feature_with_a_word_per_person_tells_nothing() -> None:
    frame = people()[0]
    frame["name"] = [f"person {number}" for number in range(len(frame))]

    assert fairness.proxies(frame, ["sex"], numeric=[], categorical=["name"], limit=0.6, seed=0) == ()


def test_an_attribute_that_is_a_feature_is_its_own_proxy() -> None:
    frame = people()[0]

    (found,) = fairness.proxies(frame, ["sex"], numeric=[], categorical=["sex"], limit=0.75, seed=0)

    assert str(found) == "sex is itself a feature: the model sees it."


def test_an_attribute_with_one_group_has_no_proxies() -> None:
    frame = people()[0].assign(sex="f", line="a")

    assert fairness.proxies(frame, ["sex"], numeric=[], categorical=["line"], limit=0.6, seed=0) == ()

"""Scores of numbers against scikit-learn's own, and blocks that are resampled as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.svm import LinearSVC

from mlops_provider.adapters import evaluation, tasks, training
from mlops_provider.adapters.tasks.regression import ScoredNumbers
from mlops_provider.core.tasks import REGRESSION
from mlops_provider.exceptions import DataRejectedError, ServingCheckError
from mlops_provider.spec_parts import BLOCKS_OF_TIME

pytestmark = pytest.mark.integration

REFERENCE: Mapping[str, Any] = {
    "rmse": sk.root_mean_squared_error,
    "mae": sk.mean_absolute_error,
    "median_absolute_error": sk.median_absolute_error,
    "r2": sk.r2_score,
    "absolute_bias": lambda observed, predicted: abs(np.mean(predicted - observed)),
}


def numbers(rows: int, *, seed: int = 0, decimals: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    observed = rng.gamma(2.0, 50.0, rows).round(decimals)
    return observed, (0.8 * observed + rng.normal(15, 20, rows)).round(decimals)


def evaluated(predictions: dict[str, np.ndarray], observed: np.ndarray, **changes: Any) -> evaluation.Scores:
    given = {"slices": [], "slice_metric": "mae", "resamples": 100, "confidence": 0.95, "seed": 1, **changes}
    return evaluation.evaluate(predictions, observed, pd.DataFrame(), task=tasks.REGRESSION, **given)


def test_every_metric_of_the_task_is_known() -> None:
    assert set(REFERENCE) == set(REGRESSION.metrics)


@given(
    st.lists(
        st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000), st.integers(0, 4)), min_size=3, max_size=40
    ).filter(lambda rows: len({observed for observed, _, count in rows if count}) > 1)
)
@settings(max_examples=150, deadline=None)
def test_a_weighting_scores_like_scikit_learn_on_rows_that_come_so_often(rows: list[tuple[int, int, int]]) -> None:
    observed, predicted, counts = (np.array(column) for column in zip(*rows, strict=True))
    repeated, guessed = np.repeat(observed, counts) / 8, np.repeat(predicted, counts) / 8

    drawn = ScoredNumbers(predicted / 8, observed / 8, REGRESSION.metrics).draw(counts[None, :].astype(float))

    for metric, reference in REFERENCE.items():
        assert drawn[metric][0] == pytest.approx(reference(repeated, guessed), rel=1e-9, abs=1e-9), metric


def test_r2_of_equal_numbers_and_scores_of_no_rows_are_undefined() -> None:
    observed, predicted = np.array([3.3, 3.3, 3.3, 8.0]), np.array([3.0, 4.0, 3.0, 7.0])
    scored = ScoredNumbers(predicted, observed, REGRESSION.metrics)

    drawn = scored.draw(np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))

    assert np.isnan(drawn["r2"]).all()
    assert drawn["mae"][0] == pytest.approx(1.3 / 3)
    assert all(np.isnan(values[1]) for values in drawn.values())


def test_a_target_far_from_zero_keeps_its_r2() -> None:
    observed, predicted = numbers(500)

    far = evaluation.score("r2", predicted + 1e9, observed + 1e9, task=tasks.REGRESSION)

    assert far == pytest.approx(sk.r2_score(observed, predicted), rel=1e-5)


def test_differences_above_zero_mean_a_smaller_error() -> None:
    observed, predicted = numbers(800)

    scores = evaluated({"candidate": predicted, "dummy": np.full(800, observed.mean())}, observed)

    by_metric = {each.metric: each.difference for each in scores.comparisons}
    assert by_metric["rmse"].low > 0
    assert by_metric["r2"].low > 0
    assert scores.residuals["mean"] == pytest.approx((predicted - observed).mean())
    assert scores.residuals["p50"] == pytest.approx(np.median(predicted - observed))


def test_calibration_compares_means_by_rising_prediction() -> None:
    observed, predicted = numbers(1000)

    bins = evaluated({"candidate": predicted}, observed).calibration

    assert [each.predicted for each in bins] == sorted(each.predicted for each in bins)
    assert sum(each.observed for each in bins) / 10 == pytest.approx(observed.mean())


def test_equal_numbers_cannot_be_judged() -> None:
    with pytest.raises(DataRejectedError, match="20 labelled rows: two or more different finite numbers"):
        evaluated({"candidate": np.arange(20.0)}, np.full(20, 7.0))


@pytest.mark.parametrize(("metric", "guess"), [("rmse", np.mean), ("r2", np.mean), ("mae", np.median)])
def test_the_dummy_is_the_best_single_number_by_the_primary_metric(metric: str, guess: Any) -> None:
    observed, _ = numbers(300)
    examples = training.Examples(pd.DataFrame({"x": np.arange(300.0)}), observed)

    fitted = training.baselines(
        examples, numeric=["x"], categorical=[], threads=1, task=tasks.REGRESSION, metric=metric
    )

    assert training.predictions(fitted["dummy"], examples.X, threads=1)[0] == pytest.approx(guess(observed))
    assert len(np.unique(training.predictions(fitted["linear"], examples.X, threads=1))) == 300


def test_an_estimator_says_itself_what_it_predicts() -> None:
    assert tasks.of_model(LogisticRegression()) is tasks.BINARY
    assert tasks.of_model(LinearRegression()) is tasks.REGRESSION
    for other in (IsolationForest(), LinearSVC()):
        with pytest.raises(ServingCheckError, match="neither a classifier with probabilities nor a regressor"):
            tasks.of_model(other)


def test_blocks_are_drawn_as_a_whole_and_as_many_as_there_are() -> None:
    blocks = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])

    weights = np.concatenate(list(evaluation.resampled_weights(9, 200, seed=0, blocks=blocks)))

    per_block = weights[:, [0, 3, 5]]
    assert (weights == per_block[:, blocks]).all()
    assert (per_block.sum(axis=1) == 3).all()
    assert (weights[0] == 1).all()


def test_blocks_of_one_row_each_are_the_ordinary_bootstrap() -> None:
    rows, blocks = (
        np.concatenate(list(evaluation.resampled_weights(60, 20, seed=0, blocks=each)))
        for each in (None, np.arange(60))
    )

    np.testing.assert_array_equal(rows, blocks)


def test_every_unit_of_time_that_may_be_declared_is_known() -> None:
    assert set(evaluation.UNITS) == set(BLOCKS_OF_TIME)


def test_days_are_those_of_the_zone_in_which_the_source_counts() -> None:
    frame = pd.DataFrame(
        {
            "at": pd.to_datetime(["2013-03-01T04:30Z", "2013-03-01T05:30Z", "2013-03-02T04:30Z", "2013-03-04T12:00Z"]),
            "line": ["B", "A", "B", None],
        }
    )

    def numbered(block: str | None) -> list[int] | None:
        found = evaluation.blocks_of(frame, block, event_time="at", time_zone="America/New_York")
        return None if found is None else found.tolist()

    assert numbered("day") == [0, 1, 1, 2]
    assert numbered("hour") == [0, 1, 2, 3]
    assert numbered("week") == [0, 0, 0, 1]
    assert numbered("line") == [0, 1, 0, 2]
    assert numbered(None) is None


def test_blocks_hold_the_truth_as_often_as_promised_where_rows_of_a_day_share_an_error() -> None:
    held = {"rows": 0, "days": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        days = np.repeat(np.arange(40), 25)
        errors = rng.normal(0, 1, 40)[days] + rng.normal(0, 1, 1000)
        observed = rng.normal(0, 10, 1000)
        for name, blocks in (("rows", None), ("days", days)):
            scores = evaluated({"candidate": observed + errors}, observed, confidence=0.9, blocks=blocks)
            found = scores.metrics["candidate"]["rmse"]
            held[name] += found.low <= 2**0.5 <= found.high

    assert held["days"] >= 47  # 54 expected, and a little less with 40 days
    assert held["rows"] < 40  # rows alone promise too much


def test_a_single_block_gives_no_interval() -> None:
    observed, predicted = numbers(50)

    with pytest.raises(DataRejectedError, match=r"1 block\(s\) to resample"):
        evaluated({"candidate": predicted}, observed, blocks=np.zeros(50))

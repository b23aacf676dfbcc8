"""Scores against scikit-learn's own, and intervals against what they promise."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from mlops_provider.adapters import evaluation
from mlops_provider.adapters.tasks.binary import ScoredProbabilities
from mlops_provider.core import segments
from mlops_provider.core.metrics import Interval
from mlops_provider.exceptions import DataRejectedError

pytestmark = pytest.mark.integration

REFERENCE = {
    "roc_auc": sk.roc_auc_score,
    "average_precision": sk.average_precision_score,
    "brier": sk.brier_score_loss,
    "log_loss": sk.log_loss,
}
CLASSIFIED = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
    "f1": sk.f1_score,
}


def flights(rows: int, *, seed: int = 0, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and informative probabilities; rounded to *decimals*, many of them are equal."""
    rng = np.random.default_rng(seed)
    outcomes = (rng.random(rows) < 0.3).astype(float)
    probabilities = 1 / (1 + np.exp(-rng.normal(outcomes - 0.8, 1.0)))
    return outcomes, probabilities if decimals is None else probabilities.round(decimals)


def evaluate(probabilities: dict[str, np.ndarray], outcomes: np.ndarray, frame: pd.DataFrame | None = None, **changes):
    settings = {"slices": [], "slice_metric": "roc_auc", "resamples": 100, "confidence": 0.95, "seed": 1, **changes}
    return evaluation.evaluate(probabilities, outcomes, pd.DataFrame() if frame is None else frame, **settings)


@pytest.mark.parametrize("decimals", [None, 2, 1, 0], ids=["distinct", "some ties", "many ties", "two scores"])
@pytest.mark.parametrize("metric", REFERENCE)
def test_scores_equal_those_of_scikit_learn(metric: str, decimals: int | None) -> None:
    outcomes, probabilities = flights(300, decimals=decimals)

    assert evaluation.score(metric, probabilities, outcomes) == pytest.approx(
        REFERENCE[metric](outcomes, probabilities), rel=1e-12
    )


@pytest.mark.parametrize("metric", CLASSIFIED)
def test_scores_of_predicted_classes_equal_those_of_scikit_learn(metric: str) -> None:
    outcomes, probabilities = flights(300)

    assert evaluation.score(metric, probabilities, outcomes) == pytest.approx(
        CLASSIFIED[metric](outcomes, probabilities > 0.5), rel=1e-12
    )


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("metric", REFERENCE)
def test_a_resample_scores_like_scikit_learn_with_the_same_weights(metric: str, decimals: int | None) -> None:
    outcomes, probabilities = flights(200, decimals=decimals)
    weights = np.concatenate(list(evaluation.resampled_weights(200, 5, seed=3)))

    draws = ScoredProbabilities(probabilities, outcomes, (metric,)).draw(weights)[metric]

    expected = [REFERENCE[metric](outcomes, probabilities, sample_weight=weight) for weight in weights]
    np.testing.assert_allclose(draws, expected, rtol=1e-12)


def test_the_first_draw_is_the_rows_themselves_and_each_other_has_as_many_rows() -> None:
    weights = np.concatenate(list(evaluation.resampled_weights(50, 20, seed=0)))

    assert weights.shape == (21, 50)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 50).all()


def test_draws_do_not_depend_on_how_they_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(evaluation.resampled_weights(50, 20, seed=0)))
    monkeypatch.setattr(evaluation, "_CELLS_AT_ONCE", 150)
    chunks = list(evaluation.resampled_weights(50, 20, seed=0))

    assert len(chunks) == 7
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_the_same_seed_gives_the_same_intervals() -> None:
    outcomes, probabilities = flights(500)

    assert evaluate({"candidate": probabilities}, outcomes) == evaluate({"candidate": probabilities}, outcomes)


def test_intervals_hold_the_truth_about_as_often_as_they_promise() -> None:
    truth = sk.roc_auc_score(*flights(200_000, seed=99))

    held = 0
    for seed in range(60):
        outcomes, probabilities = flights(400, seed=seed)
        interval = evaluate({"candidate": probabilities}, outcomes, confidence=0.9).metrics["candidate"]["roc_auc"]
        held += interval.low <= truth <= interval.high

    assert 47 <= held <= 60  # 54 expected


def test_a_paired_difference_is_narrower_than_the_scores_it_compares() -> None:
    outcomes, probabilities = flights(2000)
    worse = np.clip(probabilities + np.random.default_rng(5).normal(0, 0.2, 2000), 0, 1)

    scores = evaluate({"candidate": probabilities, "champion": worse}, outcomes)

    (difference,) = (each.difference for each in scores.comparisons if each.metric == "roc_auc")
    single = scores.metrics["candidate"]["roc_auc"]
    assert difference.high - difference.low < single.high - single.low
    assert difference.low > 0


def test_differences_above_zero_mean_better_also_for_losses() -> None:
    outcomes, probabilities = flights(1000)

    scores = evaluate({"candidate": probabilities, "dummy": np.full(1000, 0.3)}, outcomes)

    by_metric = {each.metric: each.difference.value for each in scores.comparisons}
    assert by_metric["brier"] > 0
    assert by_metric["roc_auc"] > 0


def test_slices_are_scored_on_their_rows_only() -> None:
    outcomes, probabilities = flights(900)
    frame = pd.DataFrame({"origin": np.tile(["EWR", "JFK", "LGA"], 300)})

    scores = evaluate({"candidate": probabilities}, outcomes, frame, slices=["origin"])

    assert [(each.value, each.rows) for each in scores.slices] == [("EWR", 300), ("JFK", 300), ("LGA", 300)]
    jfk = (frame["origin"] == "JFK").to_numpy()
    assert scores.slices[1].score.value == pytest.approx(sk.roc_auc_score(outcomes[jfk], probabilities[jfk]))


def test_a_slice_with_one_class_has_no_score() -> None:
    outcomes, probabilities = flights(400)
    frame = pd.DataFrame({"late": np.where(outcomes == 1, "yes", "no")})

    assert evaluate({"candidate": probabilities}, outcomes, frame, slices=["late"]).slices == ()


def test_precision_that_is_undefined_is_left_out() -> None:
    outcomes, probabilities = flights(400)

    scores = evaluate({"candidate": probabilities, "dummy": np.full(400, 0.3)}, outcomes)

    assert "precision" not in scores.metrics["dummy"]
    assert scores.metrics["dummy"]["recall"].value == 0


def test_calibration_covers_every_row_by_rising_probability() -> None:
    outcomes, probabilities = flights(1005)

    bins = evaluation.calibration(probabilities, outcomes)

    assert sum(each.rows for each in bins) == 1005
    assert [each.predicted for each in bins] == sorted(each.predicted for each in bins)


def test_outcomes_of_one_class_are_rejected_in_words() -> None:
    with pytest.raises(DataRejectedError, match=r"10 labelled rows with 1 class\(es\)"):
        evaluate({"candidate": np.full(10, 0.5)}, np.zeros(10))


def test_predictions_that_are_nan_are_rejected_by_name() -> None:
    outcomes, probabilities = flights(20)
    probabilities[3] = np.nan

    with pytest.raises(DataRejectedError, match="champion: 1 of 20 predictions are NaN"):
        evaluate({"champion": probabilities}, outcomes, subject="champion")


@pytest.mark.parametrize("judged", [1, 16])
def test_noise_wins_about_as_often_as_the_confidence_leaves_open(judged: int) -> None:
    """The mean of 20 blocks that nothing tells from 0, 20,000 times: the closed form of a child no better nor worse."""
    blocks, sets = 20, 20_000
    weights = np.concatenate(list(evaluation.resampled_weights(blocks, segments.RESAMPLES, 3)))[1:] / blocks
    noise = np.random.default_rng(1).normal(size=(blocks, sets))
    tails = [(1 - segments.MEASURED_AT) / 2, (1 + segments.MEASURED_AT) / 2]
    ends = np.concatenate([np.quantile(weights @ part, tails, axis=0) for part in np.array_split(noise, 20, axis=1)], 1)
    measured = [Interval(*each) for each in zip(noise.mean(axis=0), *ends, strict=True)]
    confidence = segments.corrected(0.95, judged)
    student = segments.drawn_out_by(confidence, blocks)
    normal = NormalDist().inv_cdf((1 + confidence) / 2) / NormalDist().inv_cdf((1 + segments.MEASURED_AT) / 2)

    wins, plain = (
        judged * float(np.mean([segments.wins(segments.drawn_out(each, factor)) for each in measured]))
        for factor in (student, normal)
    )

    assert wins == pytest.approx(0.025, abs=0.01)
    assert plain > wins + (0.008 if judged == 1 else 0.04)

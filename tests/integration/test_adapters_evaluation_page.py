"""The evaluation report: what a person finds on it, and that it stands alone."""

from __future__ import annotations

import dataclasses
import re

import pytest

from mlops_provider.adapters.evaluation import CalibrationBin
from mlops_provider.adapters.evaluation_page import evaluation_page
from mlops_provider.core.evaluation import Comparison, Contender, Evaluation, SliceScore
from mlops_provider.core.fairness import Disparity, Fairness, FairnessLimit, GroupScore, Proxy
from mlops_provider.core.gates import GatePolicy, Limit, SliceFloor
from mlops_provider.core.metrics import Interval
from mlops_provider.core.references import TableRef

pytestmark = pytest.mark.integration

POLICY = GatePolicy(
    primary="roc_auc",
    limits=(Limit("roc_auc", minimum=0.7), Limit("recall", minimum=0.5)),
    baselines=("dummy",),
    slice_floor=SliceFloor("roc_auc", 0.6, 100),
    minimum_rows=10,
)
FOUND = Evaluation(
    model="parcels",
    run_id="run-1",
    partition="2013-03",
    rows=12345,
    contenders=(
        Contender("candidate", None, {"roc_auc": Interval(0.75, 0.74, 0.76), "recall": Interval(0.5, 0.4, 0.6)}),
        Contender("champion", "4", {"roc_auc": Interval(0.76, 0.75, 0.77)}),
        Contender("dummy", None, {"roc_auc": Interval(0.5, 0.5, 0.5)}),
    ),
    comparisons=(
        Comparison("champion", "roc_auc", Interval(-0.01, -0.02, 0.001)),
        Comparison("dummy", "roc_auc", Interval(0.25, 0.24, 0.26)),
        Comparison("dummy", "brier", Interval(0.02, 0.01, 0.03)),
    ),
    slices=(
        SliceScore("depot", "<north>", 500, "roc_auc", Interval(0.58, 0.5, 0.66)),
        SliceScore("depot", "south", 99, "roc_auc", Interval(0.55, 0.4, 0.7)),
    ),
    champion_version="4",
    data=TableRef("/data/parcels/features", 7, "2013-03"),
)
BINS = (CalibrationBin(100, 0.1, 0.12), CalibrationBin(100, 0.4, 0.37))


def page(evaluation: Evaluation = FOUND, policy: GatePolicy = POLICY, bins: tuple[CalibrationBin, ...] = BINS) -> str:
    return " ".join(evaluation_page(evaluation, bins, {}, policy, resamples=300, confidence=0.95).split())


def test_it_shows_every_contender_with_the_metrics_that_the_gate_names() -> None:
    shown = page()

    assert "12,345 labelled rows" in shown
    assert "95 % of 300 bootstrap resamples" in shown
    assert "champion in service, version 4" in shown
    assert "0.7500<small>0.7400 to 0.7600</small>" in shown
    assert "Recall ↑" in shown
    assert "ROC AUC at least 0.7, Recall at least 0.5." in shown


def test_a_difference_is_put_in_a_word() -> None:
    assert re.findall(r'<td class="(?:good|soft|bad)">([a-z ]+)</td>', page()) == ["inside the noise", "better"]


def test_only_a_slice_that_is_large_enough_can_be_below_the_floor() -> None:
    assert page().count("below the floor") == 1


def test_what_came_from_data_is_escaped() -> None:
    assert "depot = &lt;north&gt;" in page()


def test_it_stands_alone() -> None:
    assert "<script" not in page()
    assert not re.search(r"(?:src|href|url)\s*[=(]", page())


APART = Disparity("sex", "equalized_odds_difference", "false_positive_rate", "f", "m", 100, Interval(0.2, 0.1, 0.3))
FAIRNESS = Fairness(
    attributes=("sex",),
    groups=(
        GroupScore("sex", "m", 900, {"selection_rate": Interval(0.3, 0.2, 0.4), "roc_auc": Interval(0.7, 0.6, 0.8)}),
        GroupScore("sex", "<f>", 400, {"selection_rate": Interval(0.1, 0.05, 0.15)}),
    ),
    disparities=(APART,),
    proxies=(Proxy("sex", "weight", 0.91),),
)
UNFAIR = dataclasses.replace(FOUND, fairness=FAIRNESS)


def test_without_protected_attributes_it_says_that_fairness_was_not_assessed() -> None:
    assert "Not assessed: no protected attributes are declared." in page()


def test_groups_are_shown_with_their_rates_and_how_far_they_lie_apart() -> None:
    shown = page(UNFAIR)

    assert "By sex" in shown
    assert "&lt;f&gt;" in shown
    assert "none to measure" in shown
    assert "this is shown and not gated" in shown
    assert "f (lowest), m (highest)<small>by false positive rate</small>" in shown
    assert '<td class="soft">not gated</td>' in shown
    assert "Proxy: weight tells sex (ROC AUC 0.91 by itself)." in shown


def test_a_missed_limit_between_groups_stands_out() -> None:
    shown = page(UNFAIR, dataclasses.replace(POLICY, fairness=(FairnessLimit(APART.measure, maximum=0.1),)))

    assert '<td class="bad">at most 0.1000: missed</td>' in shown
    assert "not gated" not in shown


def test_groups_too_small_to_compare_are_shown_all_the_same() -> None:
    small = dataclasses.replace(FAIRNESS, disparities=())

    assert "No two groups are large enough to compare." in page(dataclasses.replace(FOUND, fairness=small))


def test_blocks_that_were_drawn_are_named() -> None:
    assert "drawn by whole blocks: 31, one per day." in page(dataclasses.replace(FOUND, block="day", blocks=31))


def test_a_first_candidate_without_slices_limits_or_opponents_has_a_page_too() -> None:
    bare = dataclasses.replace(FOUND, contenders=FOUND.contenders[:1], comparisons=(), slices=(), champion_version=None)
    policy = dataclasses.replace(POLICY, limits=(), baselines=(), slice_floor=None)

    shown = page(bare, policy)

    assert "none yet" in shown
    assert "by slice" not in shown
    assert "Calibration of the candidate" in shown

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.core import partitions
from mlops_provider.core.metrics import Interval
from mlops_provider.core.retrain import Drop, RetrainDecision, RetrainPolicy, Window, decide

POLICY = RetrainPolicy(
    windows_needed=2, windows_considered=3, performance_drop=Drop(0.02), max_age_days=150, cooldown_days=40
)
FINE = Interval(0.74, 0.73, 0.75)
BAD = Interval(0.70, 0.69, 0.71)


def months(*windows: tuple[Interval | None, bool], last: str = "2013-06") -> list[Window]:
    """Windows of consecutive months up to *last*, each with its score and whether drift raised an alarm."""
    first = partitions.previous(last, len(windows) - 1)
    return [
        Window(month, score, 0.74, alarm)
        for month, (score, alarm) in zip(partitions.between(first, last), windows, strict=True)
    ]


def decision(windows: list[Window], policy: RetrainPolicy = POLICY, **changes: Any) -> RetrainDecision:
    given: dict[str, Any] = {
        "model": "flight_delays",
        "champion": "3",
        "trained_through": "2013-02",
        "months_available": 6,
        "last_retrain": None,
        "as_of": datetime(2013, 7, 4, tzinfo=UTC),
    }
    return decide(policy, windows, **{**given, **changes})


def test_a_healthy_champion_stays_and_the_decision_says_why() -> None:
    assert decision(months((FINE, False), (FINE, False))) == RetrainDecision(
        retrain=False,
        trigger="none",
        reasons=(
            "roc_auc 0.7400 (0.7300 to 0.7500) in 2013-06, 0.7400 at the gate, tolerated drop 0.0200: as expected.",
            "No drift alarm in 2 windows.",
            "Version 3 was trained through 2013-02, 125 days ago, limit 150 days.",
        ),
        cause=None,
    )


def test_bad_performance_in_enough_windows_retrains() -> None:
    assert decision(months((BAD, False), (FINE, False), (BAD, False))) == RetrainDecision(
        retrain=True,
        trigger="performance",
        reasons=(
            (
                "roc_auc 0.7000 (0.6900 to 0.7100) in 2013-06, 0.7400 at the gate, tolerated drop 0.0200: "
                "worse, 2 of the last 3 windows, 2 needed."
            ),
        ),
        cause="flight_delays-performance-2013-06",
    )


def test_one_bad_window_is_not_enough() -> None:
    quiet = decision(months((FINE, False), (FINE, False), (BAD, False)))

    assert not quiet.retrain
    assert quiet.reasons[0].endswith("worse, 1 of the last 3 windows, 2 needed.")


def test_bad_windows_that_are_over_do_not_retrain() -> None:
    quiet = decision(months((BAD, False), (BAD, False), (FINE, False)))

    assert not quiet.retrain
    assert quiet.reasons[0].endswith("fine again after 2013-04, 2013-05.")


def test_windows_too_old_to_be_considered_do_not_count() -> None:
    assert not decision(months((BAD, False), (FINE, False), (FINE, False), (BAD, False))).retrain


def test_an_interval_that_reaches_what_is_tolerated_is_not_bad() -> None:
    reaching = Interval(0.70, 0.68, 0.72)

    assert not decision(months((reaching, False), (reaching, False))).retrain


def test_where_less_is_better_a_rise_is_bad() -> None:
    risen = [Window(month, Interval(0.25, 0.24, 0.26), 0.20, False) for month in ("2013-05", "2013-06")]

    assert decision(risen, metric="brier").trigger == "performance"
    assert decision(risen, metric="roc_auc").trigger == "none"


@pytest.mark.parametrize(
    ("metric", "expected", "score", "bad"),
    [
        ("rmse", 20.0, Interval(22.5, 22.1, 23.0), True),
        ("rmse", 20.0, Interval(22.5, 22.0, 23.0), False),
        ("r2", 0.5, Interval(0.42, 0.40, 0.449), True),
        ("r2", 0.5, Interval(0.42, 0.40, 0.45), False),
        ("r2", -0.5, Interval(-0.6, -0.7, -0.56), True),
        ("r2", -0.5, Interval(-0.6, -0.7, -0.54), False),
    ],
)
def test_a_relative_drop_is_a_share_of_the_score_at_the_gate_towards_worse(
    metric: str, expected: float, score: Interval, bad: bool
) -> None:
    windows = [Window(month, score, expected, False) for month in ("2013-05", "2013-06")]
    tenth = replace(POLICY, performance_drop=Drop(0.1, relative=True))

    assert (decision(windows, tenth, metric=metric).trigger == "performance") is bad


def test_a_relative_drop_is_written_in_units_and_as_a_share() -> None:
    windows = [Window("2013-06", Interval(20.5, 19.0, 22.0), 20.0, False)]
    tenth = replace(POLICY, performance_drop=Drop(0.1, relative=True))

    assert decision(windows, tenth, metric="rmse").reasons[0] == (
        "rmse 20.5000 (19.0000 to 22.0000) in 2013-06, 20.0000 at the gate, tolerated drop 2.0000 (10 %): as expected."
    )


@pytest.mark.parametrize("amount", [-0.1, float("nan"), float("inf")])
def test_a_drop_is_no_gain(amount: float) -> None:
    with pytest.raises(ValueError, match="a drop must be 0 or more"):
        Drop(amount)


def test_months_without_labels_are_not_among_those_considered() -> None:
    windows = months((BAD, False), (None, False), (None, False), (BAD, False))

    assert decision(windows).trigger == "performance"


def test_a_latest_month_without_labels_says_nothing_about_performance() -> None:
    quiet = decision(months((BAD, False), (BAD, False), (None, False)))

    assert not quiet.retrain
    assert quiet.reasons[0] == "Performance in 2013-06 is unknown: too few labels."


def test_without_an_expectation_no_window_is_bad() -> None:
    unknown = [replace(window, expected=None) for window in months((BAD, False), (BAD, False))]

    assert not decision(unknown).retrain
    assert not decision([unknown[0], *months((BAD, False))]).retrain


def test_drift_in_enough_windows_and_the_latest_retrains() -> None:
    assert decision(months((FINE, True), (FINE, False), (FINE, True))) == RetrainDecision(
        retrain=True,
        trigger="drift",
        reasons=("Drift alarm in 2013-06, 2 of the last 3 windows, 2 needed.",),
        cause="flight_delays-drift-2013-06",
    )


def test_one_drift_alarm_is_not_enough() -> None:
    quiet = decision(months((FINE, False), (FINE, False), (FINE, True)))

    assert not quiet.retrain
    assert quiet.reasons[1] == "Drift alarm in 2013-06, 1 of the last 3 windows, 2 needed."


def test_drift_that_is_over_does_not_retrain() -> None:
    quiet = decision(months((FINE, True), (FINE, True), (FINE, False)))

    assert not quiet.retrain
    assert quiet.reasons[1] == "No drift alarm in 2013-06; the last was in 2013-05."


def test_a_champion_too_old_retrains() -> None:
    old = decision(months((FINE, False)), trained_through="2013-01")

    assert (old.trigger, old.cause) == ("age", "flight_delays-age-2013-06")
    assert old.reasons == ("Version 3 was trained through 2013-01, 153 days ago, limit 150 days: too old.",)


def test_a_champion_of_unknown_age_is_not_too_old() -> None:
    quiet = decision(months((FINE, False)), trained_through=None)

    assert not quiet.retrain
    assert "age of version 3 is unknown" in quiet.reasons[2]


def test_all_that_fires_is_said_and_the_weightiest_names_the_cause() -> None:
    everything = decision(months((BAD, True), (BAD, True)), trained_through="2012-01")

    assert everything.cause == "flight_delays-performance-2013-06"
    assert len(everything.reasons) == 3


def test_a_champion_that_has_not_served_yet_is_only_judged_by_age() -> None:
    quiet = decision([])

    assert not quiet.retrain
    assert quiet.reasons[:2] == (
        "The champion has served no month with labels yet.",
        "No drift alarm in 0 windows.",
    )
    assert decision([], trained_through="2012-01").cause == "flight_delays-age-2013-07"


def test_the_month_under_review_names_the_cause() -> None:
    assert decision([], trained_through="2012-01", partition="2013-06").cause == "flight_delays-age-2013-06"


def test_the_first_model_waits_for_a_month_to_train_on_and_one_for_the_gate() -> None:
    waiting = decision([], champion=None, months_available=1, partition="2013-01")

    assert waiting == RetrainDecision(
        retrain=False,
        trigger="none",
        reasons=(
            (
                "No champion yet, and 1 of 2 months of data: "
                "the first model needs one month to train on and one for the gate."
            ),
        ),
        cause=None,
    )


def test_the_first_model_comes_with_the_second_month_whatever_the_cooldown() -> None:
    as_of = datetime(2013, 3, 4, tzinfo=UTC)

    first = decision([], champion=None, months_available=2, partition="2013-02", as_of=as_of, last_retrain=as_of)

    assert (first.retrain, first.trigger, first.cause) == (True, "first_model", "flight_delays-first_model-2013-02")


def test_a_recent_retraining_cools_down_in_data_time() -> None:
    resting = decision(months((BAD, False), (BAD, False)), last_retrain=datetime(2013, 6, 4, tzinfo=UTC))

    assert not resting.retrain
    assert resting.trigger == "none"
    assert resting.cause is None
    assert resting.reasons[0] == "Would retrain, but the last retraining was 30 days ago, cooldown 40 days."
    assert resting.reasons[1].endswith("worse, 2 of the last 2 windows, 2 needed.")


def test_an_earlier_month_reviewed_late_does_not_retrain_after_a_later_one_did() -> None:
    late = decision(months((BAD, False), (BAD, False)), last_retrain=datetime(2013, 8, 4, tzinfo=UTC))

    assert late.reasons[0] == "Would retrain, but a later month already did, as of 2013-08-04."


scores = st.sampled_from([(score, alarm) for score in (FINE, BAD, None) for alarm in (True, False)])


@given(st.lists(scores, max_size=6), st.integers(0, 100), st.sampled_from(["2012-06", "2013-02"]))
def test_no_two_retrainings_lie_closer_than_the_cooldown(
    windows: list[tuple[Interval | None, bool]], cooldown: int, trained_through: str
) -> None:
    policy = replace(POLICY, cooldown_days=cooldown)
    retrained: list[datetime] = []

    for count in range(len(windows) + 1):
        last = partitions.following("2013-02", count)
        as_of = partitions.labels_known_at(last, 3)
        answer = decision(
            months(*windows[:count], last=last),
            policy,
            as_of=as_of,
            trained_through=trained_through,
            last_retrain=retrained[-1] if retrained else None,
        )
        if answer.retrain:
            retrained.append(as_of)

    gaps = [after - before for before, after in pairwise(retrained)]
    assert all(gap >= timedelta(days=cooldown) for gap in gaps)


@given(st.lists(scores, min_size=1, max_size=6))
def test_the_same_month_decided_again_has_the_same_cause(windows: list[tuple[Interval | None, bool]]) -> None:
    first, again = decision(months(*windows)), decision(months(*windows))

    assert first == again
    assert first.retrain == (first.cause is not None)
    assert first.reasons
    assert RetrainDecision.from_json(first.as_json()) == first


@pytest.mark.parametrize("needed", [0, 4])
def test_impossible_counts_of_windows_are_refused(needed: int) -> None:
    with pytest.raises(ValueError, match="windows is not possible"):
        replace(POLICY, windows_needed=needed)


def test_policies_and_windows_survive_storage() -> None:
    window = months((BAD, True))[0]

    assert RetrainPolicy.from_json(POLICY.as_json()) == POLICY
    assert Window.from_json(window.as_json()) == window

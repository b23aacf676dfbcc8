from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.core.drift import ColumnDrift, DriftPolicy, DriftVerdict, judge

POLICY = DriftPolicy(
    limit=0.1, seasonal=("temp",), seasonal_limit=2.0, alarm_share=0.4, sample_rows=5000, minimum_rows=500
)


def column(name: str, score: float, *, seasonal: bool = False) -> ColumnDrift:
    return ColumnDrift(name, "PSI", score, 0.1, seasonal)


QUIET = (column("distance", 0.02), column("hour", 0.01), column("temp", 0.03, seasonal=True))


def test_nothing_moved_is_no_alarm() -> None:
    assert judge(POLICY, QUIET, rows=5000) == DriftVerdict(QUIET, alarm=False, reasons=(), warnings=())


@pytest.mark.parametrize("limit", [0.0, 0.84])
def test_a_categorical_limit_that_no_distance_reaches_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="at most 0.83, where the distance ends"):
        replace(POLICY, categorical_limit=limit)


def test_a_seasonal_column_beyond_its_limit_only_warns() -> None:
    verdict = judge(POLICY, (*QUIET[:2], column("temp", 0.8, seasonal=True)), rows=5000)

    assert not verdict.alarm
    assert verdict.drifted == ("temp",)
    assert verdict.warnings == ("temp: PSI 0.8000, limit 0.1000; it moves with the season, so this raises no alarm.",)


def test_a_seasonal_column_further_than_any_season_counts() -> None:
    verdict = judge(replace(POLICY, alarm_share=0), (*QUIET[:2], column("temp", 5.0, seasonal=True)), rows=5000)

    assert verdict.alarm
    assert verdict.reasons == (
        "1 of 3 columns drifted (one is an alarm).",
        "temp: PSI 5.0000, limit 2.0000, further than any season moves it.",
    )
    assert verdict.warnings == ()


def test_without_a_seasonal_limit_no_season_is_too_much() -> None:
    policy = replace(POLICY, seasonal_limit=None, alarm_share=0)

    verdict = judge(policy, (*QUIET[:2], column("temp", 50.0, seasonal=True)), rows=5000)

    assert not verdict.alarm
    assert len(verdict.warnings) == 1


def test_enough_columns_beyond_their_limit_are_an_alarm_furthest_first() -> None:
    columns = (column("distance", 0.2), column("hour", 0.3), column("temp", 0.5, seasonal=True))

    verdict = judge(POLICY, columns, rows=500)

    assert verdict.alarm
    assert verdict.reasons == (
        "2 of 3 columns drifted (67%, alarm from 40%).",
        "hour: PSI 0.3000, limit 0.1000.",
        "distance: PSI 0.2000, limit 0.1000.",
    )
    assert len(verdict.warnings) == 1


def test_too_few_columns_beyond_their_limit_are_warnings() -> None:
    verdict = judge(POLICY, (column("distance", 0.2), *QUIET[1:]), rows=5000)

    assert not verdict.alarm
    assert verdict.warnings == (
        "1 of 3 columns drifted (33%, alarm from 40%): no alarm.",
        "distance: PSI 0.2000, limit 0.1000.",
    )


def test_columns_that_can_never_alarm_do_not_dilute_the_share() -> None:
    policy = replace(POLICY, seasonal_limit=None, alarm_share=1.0)

    verdict = judge(policy, (column("distance", 0.2), column("temp", 0.2, seasonal=True)), rows=5000)

    assert verdict.reasons[0] == "1 of 1 columns drifted (100%, alarm from 100%)."


def test_few_rows_are_not_judged() -> None:
    verdict = judge(POLICY, (column("distance", 9.0),), rows=499)

    assert not verdict.alarm
    assert verdict.warnings == ("Drift was not judged: 499 rows, at least 500 are needed.",)


def test_a_score_at_its_limit_has_drifted_as_evidently_says() -> None:
    assert column("distance", 0.1).drifted
    assert not column("distance", 0.0999).drifted


@given(st.lists(st.floats(0, 10)), st.floats(0, 1))
def test_without_seasons_the_alarm_is_the_share(scores: list[float], share: float) -> None:
    columns = [column(f"c{n}", score) for n, score in enumerate(scores)]
    moved = sum(score >= 0.1 for score in scores)

    verdict = judge(replace(POLICY, alarm_share=share), columns, rows=5000)

    assert verdict.alarm == (moved > 0 and moved / len(scores) >= share)
    assert bool(verdict.reasons) == verdict.alarm
    assert DriftVerdict.from_json(verdict.as_json()) == verdict


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seasonal_limit": 0.05}, "seasonal limit 0.05 is below the limit 0.1"), ({"alarm_share": 30}, "0-1")],
)
def test_impossible_policies_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(POLICY, **changes)

"""Drift by the real Evidently: one set of numbers for the verdict, the report and Evidently's own UI."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from mlops_provider.adapters import drift
from mlops_provider.adapters.distance import wasserstein
from mlops_provider.core.drift import DriftPolicy, judge

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Evidently's own modules raise at import
    from evidently.ui.workspace import Workspace

AS_OF = datetime(2013, 3, 4, tzinfo=UTC)
POLICY = DriftPolicy(
    limit=0.1, seasonal=("temp",), seasonal_limit=None, alarm_share=0.5, sample_rows=400, minimum_rows=100
)
NUMERIC, CATEGORICAL = ["temp", "distance"], ["origin"]

pytestmark = pytest.mark.integration


def month(
    seed: int, *, rows: int = 1000, warmer: float = 0.0, origins: tuple[float, float] = (0.5, 0.5)
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "temp": rng.normal(50 + warmer, 10, rows),
            "distance": rng.gamma(2.0, 500, rows),
            "origin": rng.choice(["EWR", "JFK"], rows, p=origins),
        }
    )


def measured(reference: pd.DataFrame, current: pd.DataFrame, policy: DriftPolicy = POLICY) -> drift.Drift:
    return drift.measure(
        reference,
        current,
        policy,
        numeric=NUMERIC,
        categorical=CATEGORICAL,
        seed=1,
        as_of=AS_OF,
        name="2013-02",
        title="<parcels> in 2013-02",
        labels={"partition": "2013-02"},
    )


def scores(found: drift.Drift) -> dict[str, float]:
    return {column.column: column.score for column in found.columns}


def test_a_number_is_scored_in_standard_deviations_of_the_reference() -> None:
    reference, current = month(0, rows=300), month(1, rows=300, warmer=20)

    found = scores(measured(reference, current))

    expected = wasserstein_distance(reference["temp"], current["temp"]) / np.std(reference["temp"])
    assert found["temp"] == pytest.approx(expected)
    assert found["distance"] < POLICY.limit


def test_a_category_that_shifts_is_beyond_its_limit() -> None:
    found = scores(measured(month(0), month(1, origins=(0.9, 0.1))))

    assert found["origin"] > 0.1


def test_the_same_seed_compares_the_same_rows() -> None:
    first, second = (scores(measured(month(0), month(1, warmer=5))) for _ in range(2))

    assert first == second


def test_only_a_sample_is_compared_and_its_size_is_told() -> None:
    assert measured(month(0), month(1)).rows == POLICY.sample_rows
    assert measured(month(0), month(1, rows=150)).rows == 150


def test_a_number_that_lost_all_its_values_drifts() -> None:
    current = month(1).assign(distance=np.nan)

    found = {column.column: column for column in measured(month(0), current).columns}

    assert found["distance"].drifted
    assert found["distance"].method == drift.CATEGORICAL_METHOD[1]


def test_a_lost_column_or_category_drifts_also_where_numbers_may_move_far() -> None:
    lax = dataclasses.replace(POLICY, limit=1.0, categorical_limit=0.2)
    current = month(1, warmer=8).assign(distance=np.nan, origin="LGA")

    found = measured(month(0), current, lax)

    assert judge(lax, found.columns, rows=found.rows).drifted == ("origin", "distance")


def test_the_limits_of_numbers_and_categories_are_those_declared() -> None:
    policy = dataclasses.replace(POLICY, limit=1.0, categorical_limit=0.35)

    found = measured(month(0), month(1), policy)

    assert {column.column: column.limit for column in found.columns} == {"temp": 1.0, "distance": 1.0, "origin": 0.35}


def test_without_drift_there_is_no_alarm_in_evidently_either_when_one_column_is_enough() -> None:
    strict = dataclasses.replace(POLICY, limit=1.0, alarm_share=0.0)

    found = measured(month(0), month(1), strict)

    assert not judge(strict, found.columns, rows=found.rows).alarm
    assert "Dataset Drift is NOT detected" in found.html


def test_predictions_are_compared_beside_the_features_though_they_are_of_other_rows() -> None:
    rng = np.random.default_rng(0)
    expected, made = rng.beta(2, 8, 3000), rng.beta(4, 6, 150)

    found = drift.measure(
        month(0),
        month(1),
        POLICY,
        numeric=NUMERIC,
        categorical=CATEGORICAL,
        predictions=(expected, made),
        seed=1,
        as_of=AS_OF,
    )

    assert scores(found)[drift.PREDICTION] > 1
    assert scores(found)["distance"] < POLICY.limit
    assert found.rows == POLICY.sample_rows


def test_a_number_that_never_had_a_value_does_not_drift() -> None:
    reference, current = (month(seed).assign(distance=np.nan) for seed in (0, 1))

    assert scores(measured(reference, current))["distance"] == 0


def test_a_category_that_lost_all_its_values_drifts() -> None:
    assert scores(measured(month(0), month(1).assign(origin=None)))["origin"] > 0.5


def test_missing_and_infinite_numbers_and_constant_columns_are_no_reason_to_fail() -> None:
    current = month(1)
    current.loc[:100, "distance"] = np.nan
    current.loc[101, "distance"] = np.inf

    found = scores(measured(month(0).assign(temp=1.0), current.assign(temp=1.0)))

    assert found["temp"] == 0
    assert np.isfinite(found["distance"])


def test_evidently_counts_the_columns_that_the_verdict_counts() -> None:
    found = measured(month(0), month(1, warmer=30, origins=(0.95, 0.05)))

    (count,) = (each for each in found.snapshot.dict()["metrics"] if "DriftedColumnsCount" in each["config"]["type"])
    verdict = judge(POLICY, found.columns, rows=found.rows)
    assert count["value"] == {"count": 1.0, "share": 0.5}  # origin, of origin and distance; temp only warns
    assert verdict.reasons[0].startswith("1 of 2 columns drifted")
    assert verdict.drifted == ("temp", "origin")


def test_beyond_the_seasonal_limit_evidently_counts_seasonal_columns_too() -> None:
    policy = DriftPolicy(0.1, ("temp",), 1.0, alarm_share=0.3, sample_rows=400, minimum_rows=100)

    found = measured(month(0), month(1, warmer=30), policy)

    (count,) = (each for each in found.snapshot.dict()["metrics"] if "DriftedColumnsCount" in each["config"]["type"])
    assert count["value"]["count"] == 1.0
    assert judge(policy, found.columns, rows=found.rows).alarm


def test_the_report_holds_the_scores_of_the_verdict_and_needs_no_network() -> None:
    found = measured(month(0), month(1, warmer=30))

    for score in scores(found).values():
        assert f"{score:.6f}".rstrip("0") in found.html
    assert "Seasonal columns" in found.html
    assert "&lt;parcels&gt; in 2013-02</h1>" in found.html
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=.?https?:", found.html)


def test_a_snapshot_appears_in_the_workspace_once_also_after_a_retry(tmp_path: Path) -> None:
    found = measured(month(0), month(1))

    first = drift.log_snapshot(tmp_path, "flight_delays", found, key="2013-02")
    again = drift.log_snapshot(tmp_path, "flight_delays", found, key="2013-02")
    drift.log_snapshot(tmp_path, "flight_delays", found, key="2013-03")

    workspace = Workspace(str(tmp_path))
    (project,) = workspace.search_project("flight_delays")
    assert first == again
    assert len(workspace.list_runs(project.id)) == 2
    run = workspace.get_run(project.id, first)
    assert run is not None
    assert (run.name, run.timestamp, run.metadata) == ("2013-02", AS_OF, {"partition": "2013-02"})


def test_the_dashboard_plots_every_column_over_time(tmp_path: Path) -> None:
    drift.log_snapshot(tmp_path, "flight_delays", measured(month(0), month(1)), key="2013-02")

    workspace = Workspace(str(tmp_path))
    (project,) = workspace.search_project("flight_delays")
    panels = project.dashboard.model().panels
    assert [panel.title for panel in panels] == [
        "Share of drifted columns",
        "Drift score",
        "Drift score, seasonal columns",
    ]
    assert {value["legend"] for panel in panels[1:] for value in panel.dict()["values"]} == {
        "temp",
        "distance",
        "origin",
    }


def test_a_snapshot_that_could_not_be_written_leaves_no_part_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(month(0), month(1))
    drift.log_snapshot(tmp_path, "flight_delays", found, key="2013-02")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        drift.log_snapshot(tmp_path, "flight_delays", found, key="2013-03")

    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_distance_that_rollouts_measure_is_that_of_the_report() -> None:
    one, other = month(1), month(2, rows=700, warmer=3)

    found = drift.measure(
        one,
        other,
        dataclasses.replace(POLICY, sample_rows=10_000),
        numeric=["temp"],
        categorical=[],
        seed=1,
        as_of=AS_OF,
    )

    groups = [[[value] for value in rows["temp"]] for rows in (one, other)]
    distance = wasserstein(*groups)
    assert distance.value == pytest.approx(found.columns[0].score, rel=1e-9)
    assert distance.low < distance.value < distance.high
    assert distance == wasserstein(*groups)

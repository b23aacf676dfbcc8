from __future__ import annotations

import pytest

from mlops_provider.core.readings import KEPT_ROWS
from mlops_provider.serving.tally import KEPT, Tallies


def test_a_new_generation_is_counted_from_zero_and_a_late_answer_of_the_last_one_counts_for_nothing() -> None:
    tallies = Tallies()
    tallies.of(3, "1").count(5.0, failed=False)
    tallies.of(4, "1").count(5.0, failed=True)

    tallies.of(3, "1").count(5.0, failed=False)

    seen = tallies.as_json()
    assert seen["generation"] == 4
    assert (seen["versions"]["1"]["requests"], seen["versions"]["1"]["errors"]) == (1, 1)
    assert seen["versions"]["1"]["latencies"] == {}


def test_versions_are_counted_apart_and_only_the_newest_predictions_are_kept() -> None:
    tallies = Tallies()
    for number in range(KEPT + 5):
        tallies.of(1, "1").predicted([number])
    tallies.of(1, "2").predicted([0.1, 0.3], [0.2, 0.3])

    versions = tallies.as_json()["versions"]

    assert versions["1"]["predictions"][0] == [5]
    assert len(versions["1"]["predictions"]) == KEPT
    assert versions["1"]["pairs"] == []
    assert versions["2"]["predictions"] == [[0.1, 0.3]]
    assert versions["2"]["pairs"] == [[(0.1, 0.2), (0.3, 0.3)]]


@pytest.mark.parametrize("rows", [1, 9, 10, 11, 95, 1000])
def test_a_large_request_counts_as_a_few_rows_spread_over_it(rows: int) -> None:
    tallies = Tallies()

    tallies.of(1, "1").predicted(list(range(rows)), list(range(rows)))

    (kept,) = tallies.as_json()["versions"]["1"]["predictions"]
    (pairs,) = tallies.as_json()["versions"]["1"]["pairs"]
    assert min(rows, KEPT_ROWS // 2) <= len(kept) <= KEPT_ROWS
    assert kept[-1] >= rows * 0.8 - 1
    assert pairs == [(each, each) for each in kept]

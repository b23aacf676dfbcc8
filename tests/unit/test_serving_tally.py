from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mlops_provider.core.readings import KEPT, KEPT_ROWS
from mlops_provider.serving.tally import Tallies
from mlops_provider.targets import server


def test_a_new_generation_is_counted_from_zero_and_a_late_answer_of_the_last_one_counts_for_nothing() -> None:
    tallies = Tallies()
    tallies.of(3, "1").count(5.0, failed=False)
    tallies.of(4, "1").count(5.0, failed=True)

    tallies.of(3, "1").count(5.0, failed=False)

    seen = tallies.as_json()
    assert seen["generation"] == 4
    assert (seen["versions"]["1"]["requests"], seen["versions"]["1"]["errors"]) == (1, 1)
    assert seen["versions"]["1"]["latencies"] == {}


def test_versions_are_counted_apart() -> None:
    tallies = Tallies()
    tallies.of(1, "1").predicted([0.5])
    tallies.of(1, "2").predicted([0.1, 0.3], [0.2, 0.3])

    versions = tallies.as_json()["versions"]

    assert (versions["1"]["predictions"], versions["1"]["pairs"]) == ([[0.5]], [])
    assert versions["2"]["predictions"] == [[0.1, 0.3]]
    assert versions["2"]["pairs"] == [[(0.1, 0.2), (0.3, 0.3)]]


def test_what_is_kept_spans_the_whole_step_however_many_requests_there_are() -> None:
    tally = Tallies().of(1, "1")
    for number in range(10 * KEPT):
        tally.predicted([number], [number])

    kept = sorted(request[0] for request in tally.predictions)

    assert (len(kept), len(tally.pairs), tally.answered) == (KEPT, KEPT, 10 * KEPT)
    assert kept[0] < KEPT / 10
    # The mean of a uniform sample is off by its standard error; the newest would be off by 45 % of the step.
    assert abs(sum(kept) / KEPT - 5 * KEPT) < 6 * 10 * KEPT / (12 * KEPT) ** 0.5
    assert [pairs[0][0] for pairs in tally.pairs] == [request[0] for request in tally.predictions]


def test_of_each_replica_the_same_share_of_its_requests_counts() -> None:
    def seen(answered: int, kept: int, name: str) -> dict[str, Any]:
        about = {"requests": answered, "errors": 0, "answered": answered, "latencies": {}}
        return {**about, "predictions": [[name]] * kept, "pairs": [[[name, name]]] * kept}

    together = server._together([seen(20_000, 2000, "whole step"), seen(500, 500, "late"), seen(0, 0, "idle")])

    assert Counter(request[0] for request in together.predictions) == {"whole step": 2000, "late": 50}
    assert len(together.pairs) == 2050
    assert together.requests == 20_500


@pytest.mark.parametrize("rows", [1, 9, 10, 11, 95, 1000])
def test_a_large_request_counts_as_a_few_rows_spread_over_it(rows: int) -> None:
    tallies = Tallies()

    tallies.of(1, "1").predicted(list(range(rows)), list(range(rows)))

    (kept,) = tallies.as_json()["versions"]["1"]["predictions"]
    (pairs,) = tallies.as_json()["versions"]["1"]["pairs"]
    assert min(rows, KEPT_ROWS // 2) <= len(kept) <= KEPT_ROWS
    assert kept[-1] >= rows * 0.8 - 1
    assert pairs == [(each, each) for each in kept]

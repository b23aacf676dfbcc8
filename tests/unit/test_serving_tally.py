from __future__ import annotations

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
    tallies.of(1, "1").predictions.extend(range(KEPT + 5))
    tallies.of(1, "2").pairs.append((0.1, 0.2))

    versions = tallies.as_json()["versions"]

    assert versions["1"]["predictions"][0] == 5
    assert len(versions["1"]["predictions"]) == KEPT
    assert versions["2"]["pairs"] == [[0.1, 0.2]]

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlops_provider.core.fairness import (
    MEASURES,
    RATES,
    Disparity,
    Fairness,
    FairnessLimit,
    GroupScore,
    Proxy,
    findings,
    measures_of,
)
from mlops_provider.core.metrics import Interval
from mlops_provider.core.tasks import TASKS


def group(name: str, rows: int, rate: float, attribute: str = "sex") -> GroupScore:
    return GroupScore(attribute, name, rows, {"selection_rate": Interval(rate, rate - 0.01, rate + 0.01)})


WOMEN, MEN, OTHER = group("Female", 5421, 0.09), group("Male", 10_860, 0.26), group("Other", 1, 0.0)
RATIO = Disparity(
    "sex", "demographic_parity_ratio", "selection_rate", "Female", "Male", 100, Interval(0.3462, 0.31, 0.39)
)
FOUND = Fairness(attributes=("sex",), groups=(MEN, WOMEN, OTHER), disparities=(RATIO,))
FOUR_FIFTHS = FairnessLimit("demographic_parity_ratio", minimum=0.8)


def said(fairness: Fairness = FOUND, *limits: FairnessLimit) -> list[tuple[str, str]]:
    return list(findings(limits, fairness))


def test_undeclared_is_said_and_never_passed() -> None:
    assert said(Fairness()) == [("note", "Fairness was not assessed: no protected attributes are declared.")]


def test_a_limit_that_nothing_was_declared_for_is_not_kept() -> None:
    assert said(Fairness(), FOUR_FIFTHS) == [
        ("reason", "Fairness was not assessed: no protected attributes are declared.")
    ]


def test_declared_without_a_limit_is_said_to_be_not_gated() -> None:
    assert said() == [("note", "Fairness by sex is shown in the report and not gated: it has no limit.")]


def test_a_missed_limit_names_attribute_groups_sizes_and_numbers_and_who_was_not_judged() -> None:
    assert said(FOUND, FOUR_FIFTHS) == [
        (
            "reason",
            (
                "Fairness by sex: demographic_parity_ratio 0.3462 is below the minimum 0.8000 (interval 0.3100 to "
                "0.3900): selection rate 0.0900 of Female (5,421 rows) against 0.2600 of Male (10,860 rows)."
            ),
        ),
        (
            "warning",
            (
                "Fairness by sex: not judged in demographic_parity_ratio, for fewer than 100 rows or for want of a "
                "rate: Other (1 row)."
            ),
        ),
    ]


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (Interval(0.9, 0.85, 0.95), "note", "0.9000 keeps the minimum 0.8000 (interval 0.8500 to 0.9500): "),
        (Interval(0.9, 0.75, 0.95), "warning", "0.9000 could be below the minimum 0.8000 (interval 0.7500 to 0.9500)"),
        (Interval(0.8, 0.8, 0.95), "note", "0.8000 keeps the minimum 0.8000"),
        (Interval(0.79999, 0.7, 0.95), "reason", "0.79999 is below the minimum 0.80000"),
    ],
)
def test_a_ratio_is_held_to_its_minimum(value: Interval, kind: str, words: str) -> None:
    found = said(replace(FOUND, disparities=(replace(RATIO, score=value),)), FOUR_FIFTHS)[0]

    assert found[0] == kind
    assert words in found[1]


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (Interval(0.05, 0.02, 0.09), "note", "keeps the maximum 0.1000"),
        (Interval(0.05, 0.02, 0.11), "warning", "could be above the maximum 0.1000"),
        (Interval(0.17, 0.16, 0.18), "reason", "is above the maximum 0.1000"),
    ],
)
def test_a_difference_is_held_to_its_maximum(value: Interval, kind: str, words: str) -> None:
    difference = replace(RATIO, measure="demographic_parity_difference", score=value)
    limit = FairnessLimit("demographic_parity_difference", attribute="sex", maximum=0.1)

    found = said(replace(FOUND, disparities=(difference,)), limit)[0]

    assert found[0] == kind
    assert words in found[1]


def test_a_limit_that_could_not_be_judged_is_not_kept() -> None:
    alone = replace(FOUND, groups=(MEN, OTHER), disparities=())

    assert said(alone, FOUR_FIFTHS) == [
        (
            "reason",
            (
                "Fairness by sex: demographic_parity_ratio has a limit but was not measured: it takes two groups of "
                "100 rows or more; not judged: Other (1 row)."
            ),
        )
    ]


def test_a_disparity_of_other_group_sizes_is_another_one() -> None:
    (found, *_) = said(FOUND, replace(FOUR_FIFTHS, minimum_rows=10))

    assert "was not measured: it takes two groups of 10 rows or more" in found[1]


def test_a_limit_without_an_attribute_holds_for_each() -> None:
    both = replace(FOUND, attributes=("sex", "race"))

    reasons = [sentence for kind, sentence in said(both, FOUR_FIFTHS) if kind == "reason"]

    assert [sentence.split(":")[0] for sentence in reasons] == ["Fairness by sex", "Fairness by race"]


def test_an_attribute_that_no_limit_names_is_said_to_be_not_gated() -> None:
    both = replace(FOUND, attributes=("sex", "race"))

    assert said(both, replace(FOUR_FIFTHS, attribute="sex"))[-1] == (
        "note",
        "Fairness by race is shown in the report and not gated: it has no limit.",
    )


def test_a_group_without_the_rate_is_not_judged() -> None:
    limit = FairnessLimit("equal_opportunity_difference", maximum=0.1)

    assert FOUND.not_judged("sex", limit.measure, 1) == (MEN, WOMEN, OTHER)


def test_proxies_are_warned_of() -> None:
    warned = said(replace(FOUND, proxies=(Proxy("sex", "relationship", 0.913), Proxy("sex", "sex", 1.0))))

    assert warned[-2:] == [
        ("warning", "Proxy: relationship tells sex (ROC AUC 0.91 by itself)."),
        ("warning", "Proxy: sex is itself a feature: the model sees it."),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"measure": "equal_odds", "maximum": 0.1}, "expected one of demographic_parity_difference, "),
        (
            {"measure": "equalized_odds_difference"},
            "needs a maximum and nothing else: a difference is better when less",
        ),
        ({"measure": "equalized_odds_difference", "minimum": 0.1}, "needs a maximum"),
        ({"measure": "demographic_parity_ratio", "minimum": 0.8, "maximum": 1.0}, "needs a minimum and nothing else"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FairnessLimit(**changes)


def test_what_was_measured_survives_storage() -> None:
    found = replace(FOUND, proxies=(Proxy("sex", "hours", 0.8),))

    assert Fairness.from_json(found.as_json()) == found


def test_every_measure_belongs_to_exactly_one_kind_of_target_and_has_words() -> None:
    fits = [name for task in TASKS.values() for name in measures_of(task.rates)]

    assert sorted(fits) == sorted(MEASURES)
    assert {rate for measure in MEASURES.values() for rate in measure.rates} <= set(RATES)
    assert {rate for task in TASKS.values() for rate in task.rates} == set(RATES)

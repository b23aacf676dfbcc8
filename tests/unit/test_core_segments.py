"""Which segments are judged, how surely, and what is said of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.core import segments
from mlops_provider.core.evaluation import CANDIDATE, PARENT, Comparison, Contender, Evaluation
from mlops_provider.core.gates import GatePolicy, decide
from mlops_provider.core.metrics import Interval
from mlops_provider.core.segments import Segment


@pytest.mark.parametrize(
    ("segment", "said"),
    [
        (Segment("AA", 1000, 1000), ""),
        (Segment("AA", 999, 5000), "Too few rows: 999 to learn from and 5,000 to be judged on, at least 1,000 of each"),
        (Segment("AA", 5000, 7), "Too few rows: 5,000 to learn from and 7 to be judged on"),
        (Segment("AA", 5000, 5000, blocks=6), "Too few blocks to be judged on: 6, at least 20 needed."),
        (Segment("AA", 5000, 5000, blocks=20), ""),
        (
            Segment("AA", 5000, 5000, rare=400, validation_rare=4),
            "Too few rows of the rarer class: 400 to learn from and 4",
        ),
        (
            Segment("AA", 5000, 5000, rare=19, validation_rare=20),
            "Too few rows of the rarer class: 19 to learn from and 20",
        ),
        (Segment("AA", 5000, 5000, rare=20, validation_rare=20), ""),
        (
            Segment("AA", 5000, 5000, 19, 90, 90),
            "Too few blocks that hold the rarer class to be judged on: 19, at least",
        ),
        (Segment("AA", 5000, 5000, unfit="5,000 rows with 1 class(es)"), "5,000 rows with 1 class(es)"),
        (Segment(PARENT, 5000, 5000), "The name 'parent' stands for the model of all segments."),
    ],
)
def test_a_segment_is_judged_or_it_is_said_why_not(segment: Segment, said: str) -> None:
    excluded = segment.excluded(1000)

    assert excluded.startswith(said)
    assert bool(excluded) == bool(said)


@given(st.floats(0.5, 0.999), st.integers(1, 500))
def test_all_intervals_together_keep_the_declared_confidence(confidence: float, judged: int) -> None:
    each = segments.corrected(confidence, judged)

    assert confidence <= each + 1e-12 < 1 + 1e-12
    assert judged * (1 - each) == pytest.approx(1 - confidence)


def test_a_single_segment_needs_no_correction() -> None:
    assert segments.corrected(0.95, 1) == segments.corrected(0.95, 0) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("segment", "units"),
    [
        (Segment("AA", 5000, 4000), 4000),
        (Segment("AA", 5000, 4000, rare=90, validation_rare=70), 70),
        (Segment("AA", 5000, 4000, blocks=25, rare=90, validation_rare=70), 25),
    ],
)
def test_an_interval_rests_on_blocks_or_the_rarer_class_or_rows(segment: Segment, units: int) -> None:
    assert segment.independent == units
    assert Segment.from_json(segment.as_json()) == segment


@pytest.mark.parametrize(
    ("confidence", "freedom", "quantile"),
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.3027),
        (0.95, 19, 2.0930),
        (0.99, 20, 2.8453),
        (0.999, 30, 3.6460),
        (0.95, 10**6, 1.96),
    ],
)
def test_students_quantiles_are_those_of_the_tables(confidence: float, freedom: int, quantile: float) -> None:
    assert segments.student(confidence, freedom) == pytest.approx(quantile, abs=3e-3 if freedom > 1000 else 1e-4)


def test_few_units_widen_an_interval_and_many_do_not() -> None:
    assert segments.drawn_out_by(0.95, 20) == pytest.approx(2.0930 / 1.95996 * (20 / 19) ** 0.5, abs=1e-4)
    assert segments.drawn_out_by(0.95, 10**6) == pytest.approx(1, abs=2e-3)


def test_each_end_is_drawn_out_from_the_value_on_its_own_side() -> None:
    assert segments.drawn_out(Interval(0.1, 0.05, 0.2), 2.0) == Interval(0.1, 0.0, 0.1 + 2 * 0.1)
    assert segments.drawn_out(Interval(0.1, 0.15, 0.2), 2.0).low == 0.1


@pytest.mark.parametrize(
    ("low", "high", "taken", "said"),
    [(0.001, 0.04, True, "Better than"), (0.0, 0.04, False, "Not shown"), (-0.03, -0.001, False, "Worse than")],
)
def test_a_child_wins_only_if_the_whole_interval_says_so(low: float, high: float, taken: bool, said: str) -> None:
    difference = Interval((low + high) / 2, low, high)

    assert segments.wins(difference) is taken
    assert segments.told(difference, "roc_auc").startswith(said)
    assert " roc_auc differs by " in segments.told(difference, "roc_auc")
    assert " rmse is smaller by " in segments.told(difference, "rmse")


def evaluated(difference: Interval | None) -> Evaluation:
    score = Interval(0.7, 0.68, 0.72)
    return Evaluation(
        model="flights",
        run_id="r",
        partition="2013-03",
        rows=5000,
        contenders=(Contender(CANDIDATE, None, {"roc_auc": score}),),
        comparisons=() if difference is None else (Comparison(PARENT, "roc_auc", difference),),
        slices=(),
        champion_version=None,
        data=None,
    )


BY_SEGMENT = GatePolicy("roc_auc", (), (), None, 1000, not_worse_than=(PARENT,))


@pytest.mark.parametrize(
    ("difference", "passed", "said"),
    [
        (Interval(-0.02, -0.03, -0.01), False, "Worse than its own parent: roc_auc difference -0.0200"),
        (Interval(-0.01, -0.03, 0.01), True, "Not worse than its own parent"),
        (Interval(0.02, 0.01, 0.03), True, "Better than its own parent: roc_auc better by +0.0200"),
        (
            Interval(0.0, 0.0, 0.0),
            True,
            "The same as its own parent: on these rows no segment is answered by another model.",
        ),
        (None, False, "roc_auc was not compared with the parent."),
    ],
)
def test_the_gate_refuses_a_candidate_that_is_shown_worse_than_its_parent(
    difference: Interval | None, passed: bool, said: str
) -> None:
    verdict = decide(BY_SEGMENT, evaluated(difference), declared_digest=BY_SEGMENT.digest, champion_version=None)

    assert verdict.passed is passed
    assert said in " ".join([*verdict.reasons, *verdict.notes])


def test_the_rule_is_part_of_the_limits_and_limits_without_it_keep_their_digest() -> None:
    plain = GatePolicy("roc_auc", (), (), None, 1000)

    assert plain.digest != BY_SEGMENT.digest
    # That of these limits before there were segments: declarations made then stay valid.
    assert plain.digest == "85e4f513b7bd116da0035fee723a97d19cf38db3ad8102e9218a8dd337505e6c"
    assert GatePolicy.from_json(BY_SEGMENT.as_json()) == BY_SEGMENT

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
    assert segments.resamples_for(each, 300) * (1 - each) / 2 >= segments.BEYOND_EACH_END - 1e-6


def test_a_single_segment_needs_no_correction_and_no_fewer_resamples_than_declared() -> None:
    assert segments.corrected(0.95, 1) == segments.corrected(0.95, 0) == pytest.approx(0.95)
    assert segments.resamples_for(0.95, 5000) == 5000


@pytest.mark.parametrize(
    ("low", "high", "taken", "said"),
    [(0.001, 0.04, True, "Better than"), (0.0, 0.04, False, "Not shown"), (-0.03, -0.001, False, "Worse than")],
)
def test_a_child_wins_only_if_the_whole_interval_says_so(low: float, high: float, taken: bool, said: str) -> None:
    difference = Interval((low + high) / 2, low, high)

    assert segments.wins(difference) is taken
    assert segments.told(difference, "roc_auc").startswith(said)


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
        (Interval(0.02, 0.01, 0.03), True, "Not worse than its own parent: roc_auc difference +0.0200"),
        (Interval(0.0, 0.0, 0.0), True, "The same as its own parent: no segment is answered by another model."),
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

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.core.fairness import Disparity, Fairness, FairnessLimit
from mlops_provider.core.gates import (
    Comparison,
    Contender,
    Evaluation,
    GatePolicy,
    Limit,
    SliceCeiling,
    SliceFloor,
    SliceScore,
    Verdict,
    decide,
)
from mlops_provider.core.metrics import Interval
from mlops_provider.core.references import TableRef

POLICY = GatePolicy(
    primary="roc_auc",
    limits=(Limit("roc_auc", minimum=0.65), Limit("brier", maximum=0.20)),
    baselines=("dummy", "linear"),
    slice_floor=SliceFloor("roc_auc", 0.60, 500),
    minimum_rows=1000,
)
CANDIDATE = Contender("candidate", None, {"roc_auc": Interval(0.74, 0.73, 0.75), "brier": Interval(0.15, 0.14, 0.16)})
CHAMPION = Contender("champion", "3", {"roc_auc": Interval(0.72, 0.71, 0.73)})
BASELINES = (
    Contender("dummy", None, {"roc_auc": Interval(0.5, 0.5, 0.5)}),
    Contender("linear", None, {"roc_auc": Interval(0.70, 0.69, 0.71)}),
)
BETTER = Interval(0.02, 0.01, 0.03)
GOOD = Evaluation(
    model="flight_delays",
    run_id="a1b2",
    partition="2013-03",
    rows=28_000,
    contenders=(CANDIDATE, CHAMPION, *BASELINES),
    comparisons=tuple(Comparison(name, "roc_auc", BETTER) for name in ("champion", "dummy", "linear")),
    slices=(
        SliceScore("origin", "JFK", 9000, "roc_auc", Interval(0.72, 0.70, 0.74)),
        SliceScore("origin", "EWR", 9000, "roc_auc", Interval(0.75, 0.73, 0.77)),
        SliceScore("carrier", "OO", 12, "roc_auc", Interval(0.40, 0.10, 0.80)),
        SliceScore("origin", "JFK", 9000, "brier", Interval(0.1, 0.1, 0.1)),
    ),
    champion_version="3",
    data=TableRef("s3://b/features", 7, "2013-03"),
)
FIRST = replace(
    GOOD,
    contenders=(CANDIDATE, *BASELINES),
    comparisons=GOOD.comparisons[1:],
    champion_version=None,
)


def verdict(
    evaluation: Evaluation = GOOD, policy: GatePolicy = POLICY, *, champion: str | None = "3", **changes: Any
) -> Verdict:
    policy = replace(policy, **changes)
    return decide(policy, evaluation, declared_digest=policy.digest, champion_version=champion)


def compared(opponent: str, difference: Interval) -> Evaluation:
    return replace(
        GOOD,
        comparisons=tuple(
            replace(one, difference=difference) if one.opponent == opponent else one for one in GOOD.comparisons
        ),
    )


def with_candidate(**metrics: Interval) -> Evaluation:
    candidate = replace(CANDIDATE, metrics={**CANDIDATE.metrics, **metrics})
    return replace(GOOD, contenders=(candidate, CHAMPION, *BASELINES))


def test_a_better_candidate_passes_and_the_verdict_says_why() -> None:
    assert verdict() == Verdict(
        passed=True,
        reasons=(),
        warnings=(),
        mode="enabled",
        notes=(
            "Evaluated on 28,000 rows of 2013-03.",
            "roc_auc 0.7400 keeps the minimum 0.6500 (interval 0.7300 to 0.7500).",
            "brier 0.1500 keeps the maximum 0.2000 (interval 0.1400 to 0.1600).",
            (
                "Better than the champion, version 3: roc_auc 0.7400 against 0.7200, "
                "better by +0.0200 (+0.0100 to +0.0300)."
            ),
            "Better than the dummy baseline: roc_auc 0.7400 against 0.5000, better by +0.0200 (+0.0100 to +0.0300).",
            "Better than the linear baseline: roc_auc 0.7400 against 0.7000, better by +0.0200 (+0.0100 to +0.0300).",
            "2 slices judged, lowest origin=JFK with roc_auc 0.7200; 1 smaller than 500 rows not judged.",
            "Fairness was not assessed: no protected attributes are declared.",
        ),
    )


def test_the_first_candidate_has_only_the_baselines_to_beat() -> None:
    first = verdict(FIRST, champion=None)

    assert first.passed
    assert "There is no champion to beat: this is the first." in first.notes


@pytest.mark.parametrize("baseline", ["dummy", "linear"])
def test_the_first_candidate_must_beat_each_baseline_beyond_the_noise(baseline: str) -> None:
    noise = Interval(0.001, -0.002, 0.004)
    comparisons = tuple(
        replace(one, difference=noise) if one.opponent == baseline else one for one in FIRST.comparisons
    )

    first = verdict(replace(FIRST, comparisons=comparisons), champion=None)

    assert not first.passed
    assert len(first.reasons) == 1
    assert first.reasons[0].startswith(f"Not better than the {baseline} baseline: roc_auc 0.7400 against ")
    assert first.reasons[0].endswith("difference +0.0010 (-0.0020 to +0.0040) is inside the noise.")


def test_a_candidate_inside_the_noise_is_no_better_than_the_champion() -> None:
    assert verdict(compared("champion", Interval(0.001, 0.0, 0.004))).reasons == (
        (
            "Not better than the champion, version 3: roc_auc 0.7400 against 0.7200, "
            "difference +0.0010 (+0.0000 to +0.0040) is inside the noise."
        ),
    )


def test_a_worse_candidate_is_called_worse() -> None:
    assert verdict(compared("champion", Interval(-0.02, -0.03, -0.01))).reasons == (
        "Worse than the champion, version 3: roc_auc 0.7400 against 0.7200, difference -0.0200 (-0.0300 to -0.0100).",
    )


def test_a_champion_without_a_version_and_rows_of_no_month_are_spoken_of_without_them() -> None:
    champion = replace(CHAMPION, version="")
    evaluation = replace(
        GOOD, contenders=(CANDIDATE, champion, *BASELINES), champion_version="", partition="", data=None
    )

    decided = verdict(evaluation, champion="")

    assert decided.passed
    assert decided.notes[0] == "Evaluated on 28,000 rows."
    assert any(note.startswith("Better than the champion: roc_auc") for note in decided.notes)
    assert Evaluation.from_json(evaluation.as_json()) == evaluation


def test_a_candidate_that_predicts_like_the_champion_is_seen_as_one_model() -> None:
    assert verdict(compared("champion", Interval(0.0, 0.0, 0.0))).reasons == (
        "Not better than the champion, version 3: roc_auc is the same in every resample, as of one model.",
    )


def test_a_missing_comparison_is_no_victory() -> None:
    evaluation = replace(GOOD, comparisons=GOOD.comparisons[2:], contenders=GOOD.contenders[:1])

    assert verdict(evaluation).reasons == (
        "roc_auc was not compared with the champion, version 3.",
        "roc_auc was not compared with the dummy baseline.",
    )


def test_a_comparison_without_the_opponents_score_still_decides() -> None:
    evaluation = replace(GOOD, contenders=(CANDIDATE, CHAMPION))

    assert (
        "Better than the linear baseline: roc_auc better by +0.0200 (+0.0100 to +0.0300)." in verdict(evaluation).notes
    )


def test_each_missed_limit_is_named() -> None:
    evaluation = with_candidate(roc_auc=Interval(0.64, 0.63, 0.65), brier=Interval(0.21, 0.20, 0.22))

    assert verdict(evaluation).reasons == (
        "roc_auc 0.6400 is below the minimum 0.6500 (interval 0.6300 to 0.6500).",
        "brier 0.2100 is above the maximum 0.2000 (interval 0.2000 to 0.2200).",
    )


def test_a_limit_just_missed_is_written_with_enough_digits() -> None:
    evaluation = with_candidate(roc_auc=Interval(0.649999, 0.64, 0.66))

    assert "roc_auc 0.649999 is below the minimum 0.650000" in verdict(evaluation).reasons[0]


def test_a_limit_reached_exactly_is_kept() -> None:
    assert verdict(with_candidate(roc_auc=Interval(0.65, 0.65, 0.66))).passed


def test_an_interval_that_crosses_a_limit_is_a_warning() -> None:
    crossing = verdict(with_candidate(roc_auc=Interval(0.66, 0.64, 0.68), brier=Interval(0.19, 0.18, 0.21)))

    assert crossing.passed
    assert crossing.warnings == (
        "roc_auc 0.6600 could be below the minimum 0.6500: interval 0.6400 to 0.6800.",
        "brier 0.1900 could be above the maximum 0.2000: interval 0.1800 to 0.2100.",
    )


def test_a_limit_on_something_never_measured_is_not_kept() -> None:
    assert verdict(limits=(Limit("accuracy", minimum=0.5),)).reasons == ("accuracy has a limit but was not measured.",)


def test_too_few_rows_prove_nothing() -> None:
    assert verdict(replace(GOOD, rows=999)).reasons == (
        "Too few rows to judge: 999 rows of 2013-03, at least 1,000 needed.",
    )


def test_a_slice_under_the_floor_is_named_with_size_and_metric() -> None:
    weak = SliceScore("carrier", "UA", 4200, "roc_auc", Interval(0.58, 0.55, 0.61))

    assert verdict(replace(GOOD, slices=(*GOOD.slices, weak))).reasons == (
        "Slice carrier=UA (4,200 rows): roc_auc 0.5800 is below the floor 0.6000 (interval 0.5500 to 0.6100).",
    )


def test_slices_all_too_small_are_a_warning() -> None:
    small = verdict(replace(GOOD, slices=GOOD.slices[2:3]))

    assert small.passed
    assert small.warnings == ("No slice could be judged: the largest of 1 has 12 rows, 500 needed.",)


def test_a_floor_without_any_slice_is_not_kept() -> None:
    assert verdict(replace(GOOD, slices=())).reasons == (
        "There is a floor for slices, but no slice was measured with roc_auc.",
    )


def test_slices_that_are_all_large_enough_need_no_remark() -> None:
    notes = verdict(replace(GOOD, slices=GOOD.slices[:2])).notes

    assert "2 slices judged, lowest origin=JFK with roc_auc 0.7200." in notes


CEILING = SliceCeiling("mae", 12.0, 500)
ERRORS = (
    SliceScore("origin", "JFK", 9000, "mae", Interval(9.5, 9.0, 10.0)),
    SliceScore("origin", "EWR", 9000, "mae", Interval(11.0, 10.0, 12.5)),
    SliceScore("carrier", "OO", 12, "mae", Interval(40.0, 10.0, 80.0)),
)


def test_under_a_ceiling_the_worst_slice_is_the_highest() -> None:
    notes = verdict(replace(GOOD, slices=ERRORS), slice_floor=None, slice_ceiling=CEILING).notes

    assert "2 slices judged, highest origin=EWR with mae 11.0000; 1 smaller than 500 rows not judged." in notes


def test_slices_above_the_ceiling_are_named_the_worst_first() -> None:
    ceiling = replace(CEILING, maximum=9.0)

    assert verdict(replace(GOOD, slices=ERRORS), slice_floor=None, slice_ceiling=ceiling).reasons == (
        "Slice origin=EWR (9,000 rows): mae 11.0000 is above the ceiling 9.0000 (interval 10.0000 to 12.5000).",
        "Slice origin=JFK (9,000 rows): mae 9.5000 is above the ceiling 9.0000 (interval 9.0000 to 10.0000).",
    )


def test_a_ceiling_without_any_slice_is_not_kept() -> None:
    assert verdict(replace(GOOD, slices=()), slice_floor=None, slice_ceiling=CEILING).reasons == (
        "There is a ceiling for slices, but no slice was measured with mae.",
    )


def test_slices_have_either_a_floor_or_a_ceiling() -> None:
    with pytest.raises(ValueError, match="either a floor or a ceiling"):
        replace(POLICY, slice_ceiling=CEILING)


def test_a_ceiling_needs_a_metric_where_less_is_better() -> None:
    with pytest.raises(ValueError, match="'r2' is better when more: give a floor"):
        SliceCeiling("r2", 0.1, 100)


def test_unfair_candidates_are_refused_and_in_a_dry_run_only_told() -> None:
    apart = Disparity("sex", "equalized_odds_difference", "false_positive_rate", "f", "m", 100, Interval(0.2, 0.1, 0.3))
    evaluation = replace(GOOD, fairness=Fairness(("sex",), disparities=(apart,)))
    limits = (FairnessLimit("equalized_odds_difference", maximum=0.1),)

    rejected = verdict(evaluation, fairness=limits)
    dry = verdict(evaluation, fairness=limits, mode="dry_run")

    (reason,) = rejected.reasons
    assert reason.startswith("Fairness by sex: equalized_odds_difference 0.2000 is above the maximum 0.1000")
    assert dry.passed
    assert dry.warnings == (f"Would have been rejected: {reason}",)


@pytest.mark.parametrize(("blocks", "warned"), [(None, 0), (20, 0), (19, 1)])
def test_intervals_of_few_blocks_are_warned_of(blocks: int | None, warned: int) -> None:
    warnings = verdict(replace(GOOD, block="week", blocks=blocks)).warnings

    assert len(warnings) == warned
    assert all("The intervals rest on 19 blocks (week)" in warning for warning in warnings)


def test_without_a_floor_slices_do_not_matter() -> None:
    assert verdict(replace(GOOD, slices=()), slice_floor=None).passed


INVALID = [
    (GOOD, "0" * 64, "3", "The thresholds changed after training began: digests 000000000000 and "),
    (GOOD, None, "2", "The champion changed: version 2 when the gate was declared, version 3 at the evaluation."),
    (GOOD, None, None, "The champion changed: no champion when the gate was declared, version 3 at the evaluation."),
    (replace(GOOD, contenders=GOOD.contenders[1:]), None, "3", "The evaluation of run 'a1b2' has no candidate in it."),
    (
        replace(GOOD, contenders=(replace(CANDIDATE, version="3"), *GOOD.contenders[1:])),
        None,
        "3",
        "Candidate and champion are the same version, 3.",
    ),
    (
        replace(GOOD, contenders=(CANDIDATE, replace(CHAMPION, version="2"))),
        None,
        "3",
        "The evaluation scored version 2 but names version 3.",
    ),
]


@pytest.mark.parametrize("mode", ["enabled", "dry_run", "disabled"])
@pytest.mark.parametrize(("evaluation", "digest", "champion", "said"), INVALID)
def test_no_mode_lets_a_worthless_evaluation_pass(
    evaluation: Evaluation, digest: str | None, champion: str | None, said: str, mode: Any
) -> None:
    policy = replace(POLICY, mode=mode, mode_reason="audit")

    rejected = decide(policy, evaluation, declared_digest=digest or policy.digest, champion_version=champion)

    assert not rejected.passed
    assert rejected.reasons[0].startswith(said)


def test_switching_the_mode_after_training_is_a_changed_threshold() -> None:
    disabled = replace(POLICY, mode="disabled", mode_reason="in a hurry")

    rejected = decide(disabled, GOOD, declared_digest=POLICY.digest, champion_version="3")

    assert rejected.reasons[0].startswith("The thresholds changed after training began")


def test_a_registered_candidate_may_meet_another_champion() -> None:
    evaluation = replace(GOOD, contenders=(replace(CANDIDATE, version="4"), *GOOD.contenders[1:]))

    assert verdict(evaluation).passed


def test_a_dry_run_passes_and_says_what_would_have_happened() -> None:
    dry = verdict(replace(GOOD, rows=10), mode="dry_run")

    assert dry.passed
    assert dry.reasons == ()
    assert dry.warnings == (
        "Would have been rejected: Too few rows to judge: 10 rows of 2013-03, at least 1,000 needed.",
    )
    assert dry.notes[0] == "Dry run: rejections are only said."


def test_a_dry_run_of_a_good_candidate_says_that_it_would_have_passed() -> None:
    assert verdict(mode="dry_run").notes[0] == "Dry run: would have passed too."


def test_a_disabled_gate_says_that_it_checked_nothing_and_why() -> None:
    disabled = verdict(replace(GOOD, rows=1), mode="disabled", mode_reason=" replaying an incident ")

    assert disabled == Verdict(
        passed=True,
        reasons=(),
        warnings=("The gate is disabled and checked nothing. Reason given: replaying an incident",),
        mode="disabled",
    )


@pytest.mark.parametrize("reason", ["", "  "])
def test_disabling_the_gate_needs_a_reason(reason: str) -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        replace(POLICY, mode="disabled", mode_reason=reason)


def test_a_floor_needs_a_metric_where_more_is_better() -> None:
    with pytest.raises(ValueError, match="'brier' is better when less"):
        SliceFloor("brier", 0.1, 100)


@pytest.mark.parametrize(
    "change",
    [
        {"primary": "brier"},
        {"minimum_rows": 1001},
        {"limits": ()},
        {"baselines": ("dummy",)},
        {"mode": "dry_run"},
        {"slice_floor": None, "slice_ceiling": SliceCeiling("brier", 0.2, 100)},
        {"fairness": (FairnessLimit("demographic_parity_ratio", minimum=0.8),)},
        {"proxy_auc": 0.9},
    ],
)
def test_the_digest_covers_every_threshold(change: dict[str, Any]) -> None:
    assert replace(POLICY, **change).digest != POLICY.digest


def test_the_digest_survives_storage_and_ways_of_writing_numbers() -> None:
    written = replace(POLICY, limits=(Limit("roc_auc", minimum=1),))
    read = GatePolicy.from_json(written.as_json())

    assert read.digest == written.digest == replace(written, limits=(Limit("roc_auc", minimum=1.0),)).digest


def test_an_evaluation_survives_storage() -> None:
    assert Evaluation.from_json(GOOD.as_json()) == GOOD
    assert Verdict.from_json(verdict().as_json()) == verdict()


def test_an_evaluation_answers_who_scored_what() -> None:
    assert GOOD.of("nobody") is None
    assert GOOD.score("nobody", "roc_auc") is None
    assert GOOD.score("champion", "brier") is None
    assert GOOD.against("champion", "brier") is None


def test_a_summary_lists_ten_reasons_and_counts_the_rest() -> None:
    rejected = Verdict(passed=False, reasons=tuple(f"R{n}." for n in range(12)), warnings=("W.",), mode="enabled")
    passed = Verdict(passed=True, reasons=(), warnings=("W.",), mode="enabled", notes=("N.",))

    assert rejected.summary == "Rejected. R0. R1. R2. R3. R4. R5. R6. R7. R8. R9. And 2 more."
    assert passed.summary == "Passed. W. N."


DIFFERENCES = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda ends: Interval(sum(ends) / 2, *sorted(ends)))


@given(DIFFERENCES, DIFFERENCES, DIFFERENCES)
def test_a_candidate_passes_exactly_if_every_interval_lies_above_zero(
    champion: Interval, dummy: Interval, linear: Interval
) -> None:
    differences = {"champion": champion, "dummy": dummy, "linear": linear}
    evaluation = replace(GOOD, comparisons=tuple(Comparison(name, "roc_auc", one) for name, one in differences.items()))

    answer = verdict(evaluation)

    assert answer.passed == all(one.low > 0 for one in differences.values())
    assert len(answer.reasons) == sum(one.low <= 0 for one in differences.values())

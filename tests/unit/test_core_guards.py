from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_provider.adapters.distance import wasserstein
from mlops_provider.core.guards import (
    AgreementGuard,
    Decision,
    ErrorGuard,
    Guards,
    LatencyGuard,
    Observed,
    PerformanceGuard,
    PredictionGuard,
    Reading,
    Soak,
    Verdict,
    decide,
    deviation,
    judge,
)
from mlops_provider.core.latency import bucket, percentile
from mlops_provider.core.metrics import Interval
from mlops_provider.core.performance import Estimate, Met, Performance, Scored
from mlops_provider.core.retrain import Drop

ERRORS = Guards(errors=ErrorGuard(0.01, 100))
SOAK = Soak(seconds=60, wait_at_most=600, look_seconds=15, without_data="rollback")


def read(guards: Guards, candidate: Observed, champion: Observed | None = None, **seen: Any) -> Reading:
    (reading,) = judge(guards, candidate, champion, **seen)
    return reading


def test_a_rollout_without_a_guard_is_refused() -> None:
    with pytest.raises(ValueError, match="without a guard is refused: declare at least one of errors, latency"):
        Guards()


@pytest.mark.parametrize(
    ("candidate", "champion", "verdict", "said"),
    [
        (Observed(99, 99), None, "waiting", "errors: 99 requests so far, 100 are needed."),
        (Observed(1000, 10), None, "passed", "errors: 10 of 1,000 requests failed (1 %), limit 1 %."),
        (
            Observed(120, 37), Observed(900, 9), "breached",
            "errors: 37 of 120 requests failed (30.8 %), limit 1 %; of the champion's 1 %.",
        ),
        (
            Observed(120, 12), Observed(900, 99), "passed",
            "errors: 12 of 120 requests failed (10 %), limit 1 %; the champion's fail as often (11 %).",
        ),
        (
            Observed(120, 12), Observed(50, 50), "waiting",
            "errors: 50 requests of the champion so far, 100 are needed.",
        ),
        (
            Observed(120, 12), Observed(150, 150), "passed",
            "errors: 12 of 120 requests failed (10 %), limit 1 %; the champion's fail as often (100 %).",
        ),
        (
            Observed(100, 10), Observed(40, 0), "waiting",
            "errors: 40 requests of the champion so far, 100 are needed.",
        ),
        (
            Observed(100, 10), Observed(100, 3), "passed",
            (
                "errors: 10 of 100 requests failed (10 %), limit 1 %; of the champion's 3 % (100 requests); "
                "it may be chance."
            ),
        ),
        (
            Observed(1000, 1000), Observed(10, 0), "breached",
            "errors: 1,000 of 1,000 requests failed (100 %), limit 1 %; of the champion's 0 %.",
        ),
        (
            Observed(120, 3), None, "passed",
            "errors: 3 of 120 requests failed (2.5 %), limit 1 %; so few may be chance.",
        ),
        (
            Observed(999, 30), Observed(999, 28), "passed",
            (
                "errors: 30 of 999 requests failed (3 %), limit 1 %; of the champion's 2.8 % (999 requests); "
                "it may be chance."
            ),
        ),
    ],
)  # fmt: skip
def test_errors(candidate: Observed, champion: Observed | None, verdict: Verdict, said: str) -> None:
    reading = read(ERRORS, candidate, champion)

    assert (reading.verdict, reading.sentence) == (verdict, said)


@pytest.mark.parametrize(("requests", "theirs"), [(100, 10), (100, 95), (1000, 100), (1000, 1000)])
def test_of_two_versions_that_fail_as_often_none_is_taken_for_worse(requests: int, theirs: int) -> None:
    looks = np.random.default_rng(7).binomial([requests, theirs], 0.05, (5000, 2)).tolist()

    found = [read(ERRORS, Observed(requests, ours), Observed(theirs, others)).verdict for ours, others in looks]

    assert found.count("breached") < 0.005 * len(looks)


def test_what_a_shadow_could_not_meet_excuses_nothing() -> None:
    failing = Observed(1000, 50)

    assert read(ERRORS, failing, failing).verdict == "passed"
    assert read(ERRORS, failing, failing, shadowed=True).verdict == "breached"


def test_a_version_that_fails_as_often_as_it_may_is_seldom_taken_for_worse() -> None:
    looks = np.random.default_rng(7).binomial(1000, 0.01, 20_000)

    breached = np.mean([read(ERRORS, Observed(1000, int(errors))).verdict == "breached" for errors in looks])

    assert breached < 0.005


@pytest.mark.parametrize(
    ("guard", "candidate", "champion", "shadowed", "verdict", "said"),
    [
        (LatencyGuard(50, None, 10), Observed(12, 3, 9.0), None, False, "waiting", "9 answers so far, 10 are needed."),
        (LatencyGuard(50, None, 10), Observed(10, 0, 49.9), None, False, "passed", "p99 is 49.9 ms, limit 50 ms."),
        (LatencyGuard(50, None, 10), Observed(10, 0, 50.1), None, False, "breached", "p99 is 50.1 ms, limit 50 ms."),
        (LatencyGuard(50, 2, 10), Observed(10, 0, 60.0), Observed(99, 0, 59.0), False, "breached", "limit 50 ms."),
        (
            LatencyGuard(None, 2, 10), Observed(10, 0, 30.0), Observed(99, 0, 12.0), False, "breached",
            "p99 is 30.0 ms, 2.50 times the champion's 12.0 ms, limit 2 times.",
        ),
        (LatencyGuard(None, 3, 10), Observed(10, 0, 30.0), Observed(99, 0, 12.0), False, "passed", "limit 3 times."),
        (
            LatencyGuard(None, 2, 10), Observed(10, 0, 30.0), Observed(9, 0, 12.0), False, "waiting",
            "9 answers of the champion so far, 10 are needed.",
        ),
        (LatencyGuard(None, 2, 10), Observed(10, 0, 30.0), None, False, "not_judged", "there is no champion's"),
        (LatencyGuard(50, 2, 10), Observed(10, 0, 30.0), None, False, "passed", "there is no champion's"),
        (LatencyGuard(None, 2, 10), Observed(10, 0, 30.0), Observed(99, 0, 1.0), True, "not_judged", "another line"),
    ],
)  # fmt: skip
def test_latency(
    guard: LatencyGuard, candidate: Observed, champion: Observed | None, shadowed: bool, verdict: Verdict, said: str
) -> None:
    reading = read(Guards(latency=guard), candidate, champion, shadowed=shadowed)

    assert reading.verdict == verdict
    assert said in reading.sentence


def test_latency_needs_a_limit() -> None:
    with pytest.raises(ValueError, match="p99_ms, p99_ratio or both"):
        LatencyGuard(None, None, 10)


@pytest.mark.parametrize(
    ("rows", "distance", "verdict", "said"),
    [
        (24, Interval(0.1, 0, 0.2), "waiting", "48 predictions of each so far"),
        (25, None, "waiting", "50 predictions of each so far"),
        (25, Interval(0.5, 0.5, 0.6), "passed", "limit 0.5 (50 rows of each)."),
        (25, Interval(0.7, 0.45, 0.9), "passed", "0.7000 standard deviations from the champion's, limit 0.5"),
        (25, Interval(0.7, 0.45, 0.9), "passed", "(50 rows of each); it may be chance."),
        (25, Interval(0.7, 0.51, 0.9), "breached", "limit 0.5 (50 rows of each)."),
    ],
)
def test_predictions(rows: int, distance: Interval | None, verdict: Verdict, said: str) -> None:
    guards = Guards(predictions=PredictionGuard(0.5, 50))
    candidate, champion = Observed(predictions=[[0.5, 0.4]] * rows), Observed(predictions=[[0.5]] * 500)

    reading = read(guards, candidate, champion, distance=distance)

    assert reading.verdict == verdict
    assert said in reading.sentence
    assert read(guards, candidate, None).verdict == "not_judged"


@pytest.mark.parametrize(
    ("agreeing", "requests", "verdict", "said"),
    [
        (9, 9, "waiting", "9 rows so far, 10 are needed"),
        (9, 10, "passed", "limit 90 %."),
        (8, 10, "passed", "80 % of 10 rows within 0.05 of what was answered, limit 90 %; it may be chance."),
        (800, 1000, "breached", "limit 90 %."),
        (0, 10, "breached", "0 % of 10 rows"),
    ],
)
def test_agreement(agreeing: int, requests: int, verdict: Verdict, said: str) -> None:
    guards = Guards(agreement=AgreementGuard(0.9, 0.05, 10))
    pairs = [[(0.5, 0.55 - 1e-9)]] * agreeing + [[(0.5, 0.56)]] * (requests - agreeing)

    reading = read(guards, Observed(), Observed(), pairs=pairs, shadowed=True)

    assert reading.verdict == verdict
    assert said in reading.sentence
    assert read(guards, Observed(), Observed(), pairs=pairs).verdict == "not_judged"


def test_rows_of_a_few_requests_are_no_proof_however_many_they_are() -> None:
    agreement = Guards(agreement=AgreementGuard(0.9, 0.05, 50))
    predictions = Guards(predictions=PredictionGuard(0.5, 50))
    few, enough = [[0.0] * 10] * 9, [[0.0] * 10] * 10
    far = Interval(9.0, 9.0, 9.0)

    def apart(requests: int) -> Reading:
        return read(agreement, Observed(), Observed(), pairs=[[(0.5, 0.9)] * 10] * requests, shadowed=True)

    def distant(ours: list[list[float]], theirs: list[list[float]]) -> Reading:
        return read(predictions, Observed(predictions=ours), Observed(predictions=theirs), distance=far)

    assert apart(9).sentence == "agreement: 9 requests so far, 10 are needed."
    assert distant(few, enough).sentence == distant(enough, few).sentence
    assert distant(few, enough).sentence == "predictions: 9 requests of each so far, 10 are needed."
    assert (apart(10).verdict, distant(enough, enough).verdict) == ("breached", "breached")


def test_rows_that_disagree_together_are_as_little_proof_as_one() -> None:
    apart = [(10, 10)] * 4 + [(0, 10)] * 16

    assert deviation(apart) == pytest.approx(np.std([1] * 4 + [0] * 16, ddof=1) / np.sqrt(20))
    assert deviation([(1, 1)] * 40 + [(0, 1)] * 160) < deviation(apart) / 3


def served(counts: Mapping[int, int]) -> Observed:
    return Observed(sum(counts.values()), 0, percentile(counts, 0.99), counts)


def test_latencies_within_a_limit_are_none_of_the_bucket_above_it() -> None:
    assert read(Guards(latency=LatencyGuard(250, None, 100)), served({bucket(249.0): 500})).verdict == "passed"


@pytest.mark.parametrize("slow", [0.01, 0.02, 0.05])
def test_of_two_equally_slow_versions_none_is_taken_for_slower(slow: float) -> None:
    rng = np.random.default_rng(5)

    def version() -> Observed:
        late = int(rng.binomial(100, slow))
        return served({bucket(10.0): 100 - late, bucket(80.0): late})

    looks = [read(Guards(latency=LatencyGuard(None, 2, 100)), version(), version()) for _ in range(2000)]

    assert np.mean([look.verdict == "breached" for look in looks]) < 0.005


def test_a_percentile_that_few_latencies_tell_may_be_chance() -> None:
    seen = Counter({bucket(20.0): 98, bucket(900.0): 2})
    more = Counter({each: 50 * count for each, count in seen.items()})
    few, many, champion = served(seen), served(more), served({bucket(24.0): 1000})

    for guard in (LatencyGuard(500, None, 100), LatencyGuard(None, 2, 100)):
        by_chance, surely = (read(Guards(latency=guard), each, champion) for each in (few, many))
        assert (by_chance.verdict, surely.verdict) == ("passed", "breached")
        assert by_chance.sentence.endswith("it may be chance.")


def test_equal_versions_are_seldom_taken_for_apart_though_rows_of_a_request_are_alike() -> None:
    rng = np.random.default_rng(3)
    limit = Guards(predictions=PredictionGuard(0.5, 100))

    def asked(requests: int) -> list[list[float]]:
        days = rng.normal(size=requests)
        return [list(day + 0.3 * rng.normal(size=10)) for day in days]

    def judged(apart: float) -> list[Reading]:
        found = []
        for _ in range(200):
            before, new = asked(60), [[apart + each for each in request] for request in asked(12)]
            distance = wasserstein(before, new)
            found.append(read(limit, Observed(predictions=new), Observed(predictions=before), distance=distance))
        return found

    equal, unlike = judged(0.0), judged(2.5)

    assert sum(each.value is not None and each.value > 0.5 for each in equal) > 10  # without the interval, all of these
    assert sum(each.verdict == "breached" for each in equal) <= 2
    assert all(each.verdict == "breached" for each in unlike)


AUC = PerformanceGuard("roc_auc", Drop(0.02), 0.6, 100)
RMSE = PerformanceGuard("rmse", Drop(0.1, relative=True), None, 100)


def known(score: float, worse: float, *, champion: float = 0.7, error: float = 0.001, theirs: int = 100) -> Performance:
    ours = Scored(100, Estimate(score, error))
    return Performance(ours, Met(ours, Scored(theirs, Estimate(champion, error)), Estimate(worse, error)))


ALONE = Performance(Scored(100, Estimate(0.7, 0.01)))
FEW = Met(Scored(40), Scored(400, Estimate(0.7, 0.01)))
LAST = Performance(Scored(300, Estimate(0.55, 0.01)), known(0.71, -0.01).met)


@pytest.mark.parametrize(
    ("guard", "seen", "verdict", "said"),
    [
        (AUC, None, "waiting", "performance: 0 labelled predictions so far, 100 are needed."),
        (AUC, known(0.7, 0.0, theirs=99), "waiting", "99 labelled predictions of the champion so far, 100 are needed."),
        (
            AUC, Performance(Scored(100), Met(Scored(100), Scored(100))), "waiting",
            "roc_auc can't be measured on 100 labelled predictions of one class or one request.",
        ),
        (
            AUC, known(0.69, 0.01), "passed",
            "predictions, limit 0.6000, 0.0100 worse than the champion's 0.7000, tolerated drop 0.0200.",
        ),
        (AUC, known(0.67, 0.0231), "breached", "0.0231 worse than the champion's 0.7000, tolerated drop 0.0200."),
        (AUC, known(0.67, 0.0229), "passed", "tolerated drop 0.0200 (it may be chance)."),
        (AUC, known(0.75, -0.05), "passed", "0.0500 better than the champion's"),
        (AUC, known(0.59, 0.11), "breached", "roc_auc 0.5900 of 100 labelled predictions, 0.1100 worse than the cham"),
        (AUC, known(0.5999, 0.01), "passed", "limit 0.6000 (it may be chance)"),
        (AUC, known(0.55, 0.001, champion=0.551, error=0.01), "passed", "0.6000 (the champion misses it, too: 0.5510)"),
        (AUC, known(0.55, 0.01, champion=0.56), "breached", "roc_auc 0.5500 of 100 labelled predictions, limit 0.6000"),
        (AUC, known(0.5, -0.1), "breached", "roc_auc 0.5000 of 100 labelled predictions, limit 0.6000, 0.1000 better"),
        (AUC, LAST, "breached", "roc_auc 0.5500 of 300 labelled predictions, limit 0.6000; where callers met both, "),
        (AUC, Performance(Scored(500, None, 9)), "waiting", "9 labelled predictions of the rarer class so far, 10 are"),
        (AUC, Performance(Scored(500, Estimate(0.7, 0.01), 10)), "passed", "roc_auc 0.7000 of 500 labelled"),
        (AUC, ALONE, "passed", "limit 0.6000; there is no champion's to compare it with."),
        (AUC, Performance(Scored(99), known(0.7, 0.0).met), "waiting", "99 labelled predictions so far, 100 are "),
        (AUC, Performance(Scored(5000, Estimate(0.45, 0.01)), FEW), "breached", "0.4500 of 5,000 labelled"),
        (AUC, Performance(Scored(5000, Estimate(0.7, 0.01)), FEW), "waiting", "40 labelled predictions so far, 100"),
        (AUC, Performance(Scored(9), FEW), "waiting", "40 labelled predictions so far, 100 are needed."),
        (
            AUC, Performance(Scored(5000, Estimate(0.4, 0.01)), known(0.595, -0.005, champion=0.59).met), "breached",
            "limit 0.6000 (the champion missed it, too: 0.5900); where callers met both, roc_auc 0.5950",
        ),
        (
            AUC, Performance(Scored(5000, Estimate(0.58, 0.01)), known(0.595, -0.005, champion=0.59).met), "passed",
            "limit 0.6000 (the champion missed it, too: 0.5900); where callers met both, roc_auc 0.5950",
        ),
        (RMSE, ALONE, "not_judged", "callers met no champion to compare with, and no limit is declared."),
        (RMSE, Performance(Scored(), known(0.6, -0.1).met), "passed", "of 100 labelled predictions, 0.1000 better"),
        (RMSE, known(0.78, 0.08), "breached", "tolerated drop 0.0700 (10 %)."),
        (RMSE, known(0.76, 0.06), "passed", "rmse 0.7600 of 100 labelled predictions, 0.0600 worse"),
    ],
)  # fmt: skip
def test_live_performance(guard: PerformanceGuard, seen: Performance | None, verdict: Verdict, said: str) -> None:
    found = read(Guards(performance=guard), Observed(), known=seen)

    assert found.verdict == verdict
    assert said in found.sentence


def reading(verdict: Verdict) -> Reading:
    return Reading("errors", verdict, None, 0.01, 0, 100, f"errors: {verdict}.")


PASSED, BREACHED, WAITING, NOT_JUDGED = (
    reading("passed"), reading("breached"), reading("waiting"), reading("not_judged"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("elapsed", "found", "action", "wait"),
    [
        (0, (PASSED,), "wait", 15),
        (-5, (PASSED,), "wait", 15),
        (50, (PASSED,), "wait", 10),
        (60, (PASSED, NOT_JUDGED), "go_on", 0),
        (0, (PASSED, BREACHED), "roll_back", 0),
        (900, (WAITING, BREACHED), "roll_back", 0),
        (61, (PASSED, WAITING), "wait", 15),
        (655, (WAITING,), "wait", 5),
        (660, (WAITING,), "give_up", 0),
    ],
)
def test_a_step_is_watched_for_its_soak_and_then_for_its_samples(
    elapsed: float, found: tuple[Reading, ...], action: str, wait: float
) -> None:
    decision = decide(SOAK, found, elapsed=elapsed)

    assert (decision.action, decision.wait_seconds) == (action, wait)
    assert decision.reasons


def test_a_clock_that_goes_before_is_no_reason_to_wait() -> None:
    assert decide(Soak(0, 0, 15, "hold"), (PASSED,), elapsed=-0.4).action == "go_on"


@pytest.mark.parametrize(("policy", "action"), [("rollback", "give_up"), ("hold", "wait"), ("proceed", "go_on")])
def test_without_data_the_declared_policy_decides_and_says_so(policy: Any, action: str) -> None:
    soak = Soak(60, 600, 15, policy)

    decision = decide(soak, (PASSED, WAITING), elapsed=700)

    assert decision.action == action
    assert decision.reasons[0].startswith(f"no minimum sample after 700 s, and without_data is {policy!r}")
    assert decision.reasons[1] == "errors: waiting."


@given(
    st.floats(0, 10_000),
    st.lists(st.sampled_from([PASSED, BREACHED, WAITING, NOT_JUDGED]), min_size=1, max_size=4),
    st.sampled_from(["rollback", "hold", "proceed"]),
)
def test_a_breach_always_goes_back_and_nothing_moves_before_the_soak_is_over(
    elapsed: float, found: list[Reading], without_data: Any
) -> None:
    decision: Decision = decide(Soak(60, 600, 15, without_data), found, elapsed=elapsed)

    if BREACHED in found:
        assert decision.action == "roll_back"
    elif elapsed < 60:
        assert decision.action == "wait"
    assert (decision.wait_seconds > 0) == (decision.action == "wait")
    assert decision.wait_seconds <= min(15, decision.left_seconds)


def test_readings_and_guards_survive_storage() -> None:
    guards = Guards(errors=ErrorGuard(0.01, 100), latency=LatencyGuard(None, 2.0, 10))

    assert Guards.from_json(guards.as_json()) == guards
    assert Reading.from_json(PASSED.as_json()) == PASSED
    assert guards.sentences == (
        "errors: at most 1 % of 100 requests or more fail",
        "latency: p99 at most 2 times the champion's, of 10 answers or more",
    )


@given(st.lists(st.floats(0.01, 10_000), min_size=1, max_size=300))
def test_a_percentile_from_buckets_is_at_most_five_percent_too_high(latencies: list[float]) -> None:
    counts: dict[int, int] = {}
    for each in latencies:
        counts[bucket(each)] = counts.get(bucket(each), 0) + 1
    exact = sorted(latencies)[max(0, -(-99 * len(latencies) // 100) - 1)]

    found = percentile(counts, 0.99)

    assert found is not None
    assert exact * 0.999 <= found <= exact * 1.0501
    assert percentile({}, 0.99) is None

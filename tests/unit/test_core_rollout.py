from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlops_provider.core.guards import AgreementGuard, ErrorGuard, Guards, Soak
from mlops_provider.core.names import Strategy
from mlops_provider.core.rollout import RolloutPolicy, Step, Traffic, champion, describe, plan, rollback_split
from mlops_provider.exceptions import ConcurrentWriteError, RolloutRefusedError

STEPS = (10, 50, 100)
ERRORS = Guards(errors=ErrorGuard(0.01, 100))
AGREEMENT = Guards(agreement=AgreementGuard(0.9, 0.1, 100))
ONE = Traffic("m", 1, {"1": 100}, settled=True)

steps = st.sets(st.integers(1, 99), max_size=5).map(lambda some: (*sorted(some), 100))
versions = st.integers(1, 12).map(str)


@st.composite
def splits(draw: st.DrawFn) -> dict[str, int]:
    names = draw(st.lists(versions, min_size=1, max_size=4, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(names) - 1, max_size=len(names) - 1)))
    return {name: high - low for name, low, high in zip(names, [0, *cuts], [*cuts, 100], strict=True)}


histories = st.lists(st.tuples(splits(), st.booleans()), max_size=8).map(
    lambda records: [Traffic("m", n, split, settled) for n, (split, settled) in enumerate(records, 1)]
)


def policy(strategy: Strategy = "canary", steps: tuple[int, ...] = STEPS, guards: Guards = ERRORS) -> RolloutPolicy:
    return RolloutPolicy(strategy, steps, Soak(60, 600, 15, "rollback"), guards)


def test_a_canary_is_loaded_then_watched_at_each_of_its_steps() -> None:
    assert plan(ONE, "2", policy()) == (
        Step({"1": 100, "2": 0}),
        Step({"1": 90, "2": 10}, watched=True),
        Step({"1": 50, "2": 50}, watched=True),
        Step({"2": 100}, watched=True),
    )


def test_all_at_once_still_loads_first_and_is_watched_afterwards() -> None:
    assert plan(ONE, "2", policy("all_at_once")) == (Step({"1": 100, "2": 0}), Step({"2": 100}, watched=True))


def test_a_shadow_is_watched_before_it_has_traffic_and_not_after() -> None:
    assert plan(ONE, "2", policy("shadow")) == (Step({"1": 100, "2": 0}, ("2",), watched=True), Step({"2": 100}))


def test_blue_green_keeps_the_old_version_loaded_to_be_compared_with() -> None:
    whole = plan(ONE, "2", policy("blue_green"))

    assert whole == (
        Step({"1": 100, "2": 0}, ("2",), watched=True),
        Step({"1": 0, "2": 100}, ("1",), watched=True),
    )
    switched = Traffic("m", 3, whole[1].split, settled=False, shadow=whole[1].shadow)
    assert plan(switched, "2", policy("blue_green")) == whole[1:]


def test_a_canary_that_has_to_agree_begins_as_a_shadow() -> None:
    first, second, *_ = plan(ONE, "2", policy(guards=AGREEMENT))

    assert first == Step({"1": 100, "2": 0}, ("2",), watched=True)
    assert second == Step({"1": 90, "2": 10}, watched=True)


def test_the_first_version_gets_everything() -> None:
    assert plan(None, "1", policy()) == (Step({"1": 100}),)


def test_an_interrupted_rollout_goes_on_where_it_was() -> None:
    current = Traffic("m", 4, {"1": 50, "2": 50}, settled=False)

    assert plan(current, "2", policy()) == (Step({"1": 50, "2": 50}, watched=True), Step({"2": 100}, watched=True))


def test_a_rollout_interrupted_at_its_end_only_has_to_settle() -> None:
    assert plan(Traffic("m", 4, {"2": 100}, settled=False), "2", policy()) == (Step({"2": 100}, watched=True),)


def test_deploying_the_old_version_again_ends_a_rollout_without_helping_the_new_one() -> None:
    current = Traffic("m", 3, {"1": 90, "2": 10}, settled=False)

    assert [step.split for step in plan(current, "1", policy())] == [{"2": 10, "1": 90}, {"1": 100}]


def test_a_second_rollout_waits_for_the_first() -> None:
    current = Traffic("m", 3, {"1": 90, "2": 10}, settled=False)

    with pytest.raises(ConcurrentWriteError) as caught:
        plan(current, "3", policy())

    assert str(caught.value) == (
        "Version 3 of 'm' has to wait: generation 3 (version 1: 90 %, version 2: 10 %) belongs to a rollout that has "
        "not settled. Let it finish or roll it back, then deploy version 3 again."
    )


def test_versions_that_share_traffic_keep_their_proportions() -> None:
    current = Traffic("m", 3, {"1": 67, "2": 33, "3": 0}, settled=True)

    splits = [step.split for step in plan(current, "4", policy())]
    assert splits[1:] == [{"1": 60, "2": 30, "4": 10}, {"1": 33, "2": 17, "4": 50}, {"4": 100}]


@given(splits(), st.booleans(), versions, steps)
def test_every_plan_sums_to_100_and_only_the_candidate_gains(
    split: dict[str, int], settled: bool, candidate: str, steps: tuple[int, ...]
) -> None:
    assume(settled or candidate in split)
    current = Traffic("m", 3, split, settled)

    entries = [step.split for step in plan(current, candidate, policy(steps=steps))]

    assert all(sum(entry.values()) == 100 for entry in entries)
    assert entries[0].get(candidate) == split.get(candidate, 0)
    assert entries[-1] == {candidate: 100}
    for before, after in zip([split, *entries], entries, strict=False):
        assert after[candidate] >= before.get(candidate, 0)
        assert all(0 <= share <= before[version] for version, share in after.items() if version != candidate)
    shares = [entry[candidate] for entry in entries[1:]]
    assert set(shares) <= set(steps)
    assert shares == sorted(shares)


@pytest.mark.parametrize("wrong", [(), (10, 50), (50, 10, 100), (0, 100), (10, 10, 100), (10, 150)])
def test_steps_must_rise_to_100(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rise from above 0 to 100"):
        plan(ONE, "2", policy(steps=wrong))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": 0}, "generations count from 1, got 0"),
        ({"split": {"1": 60, "2": 30}}, "sum to 100 percent, got version 1: 60 %, version 2: 30 %"),
        ({"split": {"1": 110, "2": -10}}, "must be 0-100 percent"),
        ({"split": {}}, "sum to 100"),
    ],
)
def test_impossible_traffic_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(ONE, **changes)


def history(*records: tuple[dict[str, int], bool]) -> list[Traffic]:
    return [Traffic("m", n, split, settled) for n, (split, settled) in enumerate(records, 1)]


def test_a_rollback_returns_to_the_last_settled_split() -> None:
    records = history(({"1": 100}, True), ({"2": 100}, True), ({"2": 50, "3": 50}, False), ({"3": 100}, True))

    assert rollback_split(records, refused=()) == {"2": 100}


def test_a_rollback_in_the_middle_of_a_rollout_restores_what_served() -> None:
    records = history(({"1": 60, "2": 40}, True), ({"1": 54, "2": 36, "3": 10}, False))

    assert rollback_split(records, refused=()) == {"1": 60, "2": 40}


def test_a_rollback_at_the_end_of_an_unsettled_rollout_leaves_the_new_version() -> None:
    records = history(({"1": 100}, True), ({"1": 100, "2": 0}, False), ({"2": 100}, False))

    assert rollback_split(records, refused=()) == {"1": 100}


def test_rolling_back_twice_does_not_bring_the_bad_version_back() -> None:
    records = history(({"1": 100}, True), ({"2": 100}, True), ({"3": 100}, True), ({"2": 100}, True))

    assert rollback_split(records, refused={"3"}) == {"1": 100}


def test_a_version_that_is_named_is_left_with_what_was_to_follow_it() -> None:
    records = history(({"1": 100}, True), ({"2": 100}, True), ({"2": 90, "3": 10}, False))

    assert rollback_split(records, refused=(), leaving={"2"}) == {"1": 100}
    with pytest.raises(RolloutRefusedError, match="version 2 being left now"):
        rollback_split(records, refused={"1"}, leaving={"2"})


def test_versions_that_were_only_loaded_do_not_come_back() -> None:
    records = history(({"1": 100, "2": 0}, True), ({"3": 100}, True))

    assert rollback_split(records, refused={"2"}) == {"1": 100}


@pytest.mark.parametrize(
    ("records", "refused", "said"),
    [
        (
            history(({"1": 100}, True)),
            (),
            (
                "Nothing to roll back to for 'm': generation 1 (version 1: 100 %) keeps its traffic. "
                "No earlier split had settled. Train or deploy another version."
            ),
        ),
        (
            history(({"1": 100}, False)),
            (),
            (
                "Nothing to roll back to for 'm': generation 1 (version 1: 100 %) keeps its traffic. "
                "No earlier split had settled. Train or deploy another version."
            ),
        ),
        (
            history(({"1": 100}, True), ({"2": 100}, True), ({"1": 100}, True)),
            ("2",),
            (
                "Nothing to roll back to for 'm': generation 3 (version 1: 100 %) keeps its traffic. "
                "Settled earlier: version 2 rolled back before; version 1 being left now. "
                "Train or deploy another version."
            ),
        ),
        ([], (), "Nothing to roll back: no version of this model ever had traffic."),
    ],
)
def test_a_rollback_without_a_way_back_says_why(records: list[Traffic], refused: tuple[str, ...], said: str) -> None:
    with pytest.raises(RolloutRefusedError) as caught:
        rollback_split(records, refused)

    assert str(caught.value) == said


@given(histories, st.sets(versions))
def test_a_rollback_never_returns_to_a_refused_version(records: list[Traffic], refused: set[str]) -> None:
    try:
        split = rollback_split(records, refused)
    except RolloutRefusedError:
        return

    assert sum(split.values()) == 100
    assert not set(split) & refused
    assert any(
        record.settled and {version: share for version, share in record.split.items() if share} == split
        for record in records[:-1]
    )


@given(st.integers(2, 6))
def test_rolling_back_as_often_as_possible_visits_each_version_once(count: int) -> None:
    records = history(*(({str(n): 100}, True) for n in range(1, count + 1)))
    refused: set[str] = set()

    visited = []
    for _ in range(count - 1):
        refused.add(str(champion(records[-1])))
        split = rollback_split(records, refused)
        records.append(Traffic("m", len(records) + 1, split, settled=True))
        visited.append(champion(records[-1]))

    assert visited == [str(n) for n in range(count - 1, 0, -1)]
    refused.add("1")
    with pytest.raises(RolloutRefusedError):
        rollback_split(records, refused)


@pytest.mark.parametrize(
    ("traffic", "version"),
    [
        (None, None),
        (Traffic("m", 1, {"1": 100}, settled=False), None),
        (Traffic("m", 1, {"1": 40, "2": 60}, settled=True), "2"),
        (Traffic("m", 1, {"10": 50, "9": 50}, settled=True), "9"),
    ],
)
def test_the_champion_has_most_of_the_settled_traffic(traffic: Traffic | None, version: str | None) -> None:
    assert champion(traffic) == version


def test_splits_are_written_in_the_order_of_versions() -> None:
    assert describe({"10": 90, "9": 10, "beta": 0}) == "version beta: 0 %, version 9: 10 %, version 10: 90 %"


def test_traffic_survives_storage() -> None:
    assert Traffic.from_json(ONE.as_json()) == ONE

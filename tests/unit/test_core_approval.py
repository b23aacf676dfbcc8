"""Who has to agree, and who may."""

from __future__ import annotations

import pytest

from mlops_provider.core.approval import ApprovalPolicy, is_needed, persons, stricter, why_not


@pytest.mark.parametrize(
    ("policy", "warnings", "needed"),
    [
        ("never", (), False),
        ("never", ("odd",), False),
        ("on_warning", (), False),
        ("on_warning", ("odd",), True),
        ("always", (), True),
    ],
)
def test_a_person_is_asked_as_the_policy_says(policy: ApprovalPolicy, warnings: tuple[str, ...], needed: bool) -> None:
    assert is_needed(policy, warnings) is needed


def test_of_two_policies_the_one_holds_that_asks_more_often() -> None:
    assert stricter("never", "on_warning") == "on_warning"
    assert stricter("always", "on_warning") == "always"
    assert stricter("never", "never") == "never"


def test_the_schedule_is_no_person() -> None:
    assert persons(["grace", "airflow", "", "Ada", "grace"]) == ("Ada", "grace")


@pytest.mark.parametrize(
    ("names", "approvers", "word"),
    [
        (["Ada", "7"], (), "Ada started its training"),
        (["someone", "ADA"], (), "nobody approves their own work"),
        (["grace"], ("linus",), "grace is not among the approvers of model.yaml (linus)"),
        ([""], (), "nobody is named"),
        (["airflow", ""], ("airflow",), "nobody is named as the one who approved ('airflow' is no person's name)"),
    ],
)
def test_an_approval_is_refused_in_words(names: list[str], approvers: tuple[str, ...], word: str) -> None:
    assert word.casefold() in why_not(names, authors=["Ada"], approvers=approvers).casefold()


def test_anybody_else_may_approve_and_so_may_a_named_approver() -> None:
    assert why_not(["grace"], authors=["Ada"], approvers=()) == ""
    assert why_not(["grace", "8"], authors=["Ada"], approvers=("GRACE",)) == ""

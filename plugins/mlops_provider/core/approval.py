"""When a person has to agree before a version gets traffic, and who may."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

ApprovalPolicy = Literal["never", "on_warning", "always"]

_STRICTER: Sequence[ApprovalPolicy] = ("never", "on_warning", "always")

NOBODY = ("", "airflow")
"""Actors of records that are no person: the schedule started the run."""


def stricter(one: ApprovalPolicy, other: ApprovalPolicy) -> ApprovalPolicy:
    """Of two policies the one that asks more often."""
    return max(one, other, key=_STRICTER.index)


def is_needed(policy: ApprovalPolicy, warnings: Sequence[str]) -> bool:
    """
    Whether a person has to agree.

    :param warnings: Those of the gate's verdict.
    """
    return policy == "always" or (policy == "on_warning" and bool(warnings))


def persons(actors: Collection[str]) -> tuple[str, ...]:
    """Those among the actors of records who are people, each once, by name."""
    return tuple(sorted({actor for actor in actors if actor not in NOBODY}, key=str.casefold))


def why_not(names: Collection[str], *, authors: Collection[str], approvers: Collection[str]) -> str:
    """
    Say why somebody may not approve; nothing if they may.

    :param names: What the person is called: login and ID, say; those of nobody do not count.
    :param authors: Who started the training or the deployment; compared without regard to case.
    :param approvers: Who may decide; anybody if empty.
    """
    called = {name.casefold() for name in names} - set(NOBODY)
    if not called:
        given = next((f" ({name!r} is no person's name)" for name in names if name), "")
        return (
            f"nobody is named as the one who approved{given}; answer in Airflow under Required Actions, or run "
            "`mlops approve` under a login of your own"
        )
    if own := next((author for author in authors if author.casefold() in called), None):
        return f"{own} started its training or deployment, and nobody approves their own work"
    if approvers and not called & {name.casefold() for name in approvers}:
        return f"{min(called)} is not among the approvers of model.yaml ({', '.join(approvers)})"
    return ""

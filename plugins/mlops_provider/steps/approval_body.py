"""What a person is shown who has to decide about a version: Markdown, made of the ledger's records alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core.evaluation import CANDIDATE, CHAMPION, Evaluation, SliceScore
from mlops_provider.core.gates import GatePolicy, Limit, Verdict
from mlops_provider.core.metrics import DIRECTIONS, METRICS, Interval, number, signed

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record

SLICES = 12
"""Slices shown at most, the worst ones."""
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~-])")


def body(
    evaluation: Record,
    gate: Record,
    declaration: Record,
    training: Record,
    *,
    champion: str | None,
    authors: Sequence[str],
    approvers: Sequence[str],
    links: Mapping[str, str],
) -> str:
    """
    Write what is known about a version, for a person who did not train it.

    :param champion: Version that serves now.
    :param authors: Who started its training or deployment, and may not approve it.
    :param approvers: Who may; anybody else if empty.
    :param links: Title -> address of pages to look at.
    """
    measured = Evaluation.from_json(evaluation.payload)
    policy = GatePolicy.from_json(declaration.payload["limits"])
    verdict = Verdict.from_json(gate.payload)
    months: list[str] = training.payload["trained_on"]
    trained = months[0] if len(months) == 1 else f"{months[0]} to {months[-1]}"
    against = f"version {champion}, which serves now" if champion else "nothing: no version serves yet"
    parts = [
        f"Trained on {trained}, judged on {measured.rows:,} rows of {measured.partition}. It would replace {against}.",
        _said("Warnings", verdict.warnings),
        _metrics(measured, policy),
        _slices(measured, policy),
        _fairness(measured),
        _said("What the gate checked", verdict.notes),
        "Look closer: " * bool(links) + ", ".join(f"[{_plain(title)}]({address})" for title, address in links.items()),
        " ".join(_who(authors, approvers)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metrics(measured: Evaluation, policy: GatePolicy) -> str:
    limits = {limit.metric: limit for limit in policy.limits}
    candidate = measured.of(CANDIDATE)
    named = [policy.primary, *limits, *(candidate.metrics if candidate else ())]
    rows = []
    for name in dict.fromkeys(named):
        score = measured.score(CANDIDATE, name)
        if score is None:
            continue
        limit = limits.get(name, Limit(name))
        bounds = [
            f"{word} {number(bound)}"
            for word, bound in (("at least", limit.minimum), ("at most", limit.maximum))
            if bound is not None
        ]
        title = METRICS[name].title + (" ↓" if DIRECTIONS[name] < 0 else "")
        title = f"**{title}**" if name == policy.primary else title
        rows.append((
            title, score, measured.score(CHAMPION, name), _difference(measured.against(CHAMPION, name)),
            " and ".join(bounds),
        ))  # fmt: skip
    return _table("Gate", ("metric", "this version", "champion", "better by", "limit"), rows)


def _slices(measured: Evaluation, policy: GatePolicy) -> str:
    direction = DIRECTIONS.get(measured.slices[0].metric, 1) if measured.slices else 1
    worst = sorted(measured.slices, key=lambda each: direction * each.score.value)
    rows = [
        (f"{_plain(each.column)} = {_plain(each.value)}", f"{each.rows:,}", each.score, _bound(policy, each))
        for each in worst[:SLICES]
    ]
    more = f" (the worst {SLICES} of {len(worst)})" if len(worst) > SLICES else ""
    title = METRICS[worst[0].metric].title if worst else ""
    return _table(f"Slices{more}", ("slice", "rows", title, "limit"), rows)


def _bound(policy: GatePolicy, each: SliceScore) -> str:
    bound = policy.slice_bound
    if bound is None:
        return ""
    if each.rows < bound.minimum_rows:
        return "too small to judge"
    return f"{bound.name} {number(bound.bound)}"


def _fairness(measured: Evaluation) -> str:
    rows = [
        (
            _plain(each.attribute), each.measure.replace("_", " "), _plain(each.lowest), _plain(each.highest),
            each.score,
        )
        for each in measured.fairness.disparities
    ]  # fmt: skip
    return _table("Between groups of people", ("attribute", "measure", "lowest", "highest", "score"), rows)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [f"### {title}", "", _row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |"


def _said(title: str, sentences: Sequence[str]) -> str:
    return "\n".join([f"### {title}", "", *(f"- {_plain(each)}" for each in sentences)]) if sentences else ""


def _difference(interval: Interval | None) -> str | None:
    if interval is None:
        return None
    return f"{signed(interval.value)} ({signed(interval.low)} to {signed(interval.high)})"


def _who(authors: Sequence[str], approvers: Sequence[str]) -> Iterator[str]:
    if authors:
        yield f"Not by {', '.join(map(_plain, authors))}: nobody approves what they trained or deploy themselves."
    if approvers:
        yield f"To be decided by {', '.join(map(_plain, approvers))}."


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))

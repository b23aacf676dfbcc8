"""The table of a replay: a view of the ledger, one row a month."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_provider.core import partitions, rollout
from mlops_provider.core.evidence import Record
from mlops_provider.core.metrics import METRICS, Interval
from mlops_provider.core.names import Kind
from mlops_provider.core.rollout import Traffic

if TYPE_CHECKING:
    from mlops_provider.stores.ledger import Ledger

NONE = "\N{EN DASH}"
SHORT_NAMES = {"roc_auc": "AUC", "median_absolute_error": "Median error"}
DRIFTED_SHOWN = 2
WIDTHS = (7, 7, 5, 19, 24, 7)
DECISION_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Row:
    """
    What a month came to.

    :param rows: Rows that arrived; ``None`` if none were validated.
    :param quarantined: Rows set aside.
    :param score: The serving model's score on the month's labels; ``None`` if no model served it.
    :param drifted: Features beyond their limit, furthest first.
    :param decision: Whether drift raised an alarm, what callers told, what was decided, and why, in words.
    :param serving: Version with the traffic after the month was closed.
    """

    month: str
    rows: int | None
    quarantined: int | None
    score: Interval | None
    drifted: tuple[str, ...]
    decision: str
    serving: str | None


def row_of(ledger: Ledger, model: str, month: str, *, metric: str) -> Row:
    """Read a month's row out of the ledger."""
    validation = _newest(ledger.history(Kind.VALIDATION, model), "partition", month)
    performance = _newest(ledger.history(Kind.PERFORMANCE, model), "partition", month)
    drift = _newest(ledger.history(Kind.DRIFT, model), "partition", month)
    measured = performance.payload["metrics"].get(metric) if performance else None
    return Row(
        month=month,
        rows=validation.payload["rows"] if validation else None,
        quarantined=validation.payload["quarantined"] if validation else None,
        score=Interval.from_json(measured) if measured else None,
        drifted=tuple(drift.payload["drifted"]) if drift else (),
        decision=" ".join(filter(None, [_alarm(drift), _told(performance), _decision(ledger, model, month)])),
        serving=_serving(ledger, model, month),
    )


def heading(metric: str, confidence: float = 0.95) -> str:
    """
    The head of the table.

    :param metric: The model's primary metric.
    :param confidence: Coverage of its intervals, 0-1.
    """
    title = SHORT_NAMES.get(metric) or METRICS[metric].title
    names = ("month", "rows", "quar.", f"{title} ({100 * confidence:g} %)", "drifted", "serving")
    cells = "  ".join(f"{name:<{width}}" for name, width in zip(names, WIDTHS, strict=True))
    return f"{cells}  decision and why\n{'-' * (len(cells) + 2 + DECISION_WIDTH)}"


def line(row: Row) -> str:
    """A row as text; a long decision goes on below itself."""
    cells = (
        row.month,
        NONE if row.rows is None else f"{row.rows:>7,}",
        NONE if row.quarantined is None else f"{row.quarantined:>5,}",
        NONE if row.score is None else _score(row.score),
        _names(row.drifted),
        NONE if row.serving is None else f"v{row.serving}",
    )
    left = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    first, *rest = textwrap.wrap(row.decision, DECISION_WIDTH) or [NONE]
    return "\n".join([f"{left}  {first}", *(f"{'':<{len(left)}}  {more}" for more in rest)])


def _score(score: Interval) -> str:
    """An interval in the width of its column, whatever the units of the metric; its low end may be below zero."""
    largest = max(abs(score.value), abs(score.low), abs(score.high))
    decimals = 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0
    value, low, high = (f"{number:.{decimals}f}" for number in (score.value, score.low, score.high))
    return f"{value} ({low}-{high})" if score.low >= 0 else f"{value} ({low} to {high})"


def _serving(ledger: Ledger, model: str, month: str) -> str | None:
    """The version with the traffic when the month was closed: before the next one was landed."""
    after = _all_of(ledger.history(Kind.LANDING, model), "partition", partitions.following(month))
    closed = after[0].seq if after else math.inf
    records = [record for record in ledger.history(Kind.TRAFFIC, model) if record.seq < closed]
    settled = [record.payload for record in records if record.payload["settled"]]
    return rollout.champion(Traffic.from_json(settled[-1])) if settled else None


def _alarm(drift: Record | None) -> str:
    return f"Drift alarm: {' '.join(drift.payload['reasons'])}" if drift and drift.payload.get("alarm") else ""


def _told(performance: Record | None) -> str:
    """How much callers told of the month, and how late."""
    found = performance.payload if performance else {}
    said = []
    if (delay := found.get("median_delay_hours")) is not None and "coverage" in found:
        said.append(f"{found['coverage']:.1%} of {found['predicted']:,} predictions, {delay:,.1f} h after the event")
    if online := found.get("online"):
        late = "" if online["rows"] == 0 else f", {online['median_delay_hours']:,.1f} h after it"
        said.append(f"{online['coverage']:.1%} of {online['answered']:,} of the server's answers{late}")
    return f"Outcomes known (median delay): {'; '.join(said)}." if said else ""


def _decision(ledger: Ledger, model: str, month: str) -> str:
    retrain = _newest(ledger.history(Kind.RETRAIN, model), "through", month)
    if retrain is None:
        return ""
    reasons = " ".join(retrain.payload["reasons"])
    if not retrain.payload["retrain"]:
        return f"Keep: {reasons}"
    said = f"Retrain ({retrain.payload['trigger'].replace('_', ' ')}): {reasons}"
    gate = _newest(ledger.history(Kind.GATE, model), "partition", month)
    if gate is None:
        return said
    if not gate.payload["passed"]:
        return f"{said} {gate.payload['summary']}"
    registered = _newest(ledger.history(Kind.REGISTRATION, model), "gate", gate.record_id)
    if registered is None:
        return f"{said} Passed the gate."
    version = registered.payload["version"]
    return " ".join([f"{said} Passed the gate as v{version}.", *_taken_back(ledger, model, version)])


def fault_row(ledger: Ledger, model: str, month: str, version: str) -> Row:
    """What came of the candidate that a replay put a fault into."""
    said = [f"Injected: a candidate that fails some callers. Passed the gate as v{version}."]
    said += _taken_back(ledger, model, version) or ["Nothing was found: it serves."]
    settled = [traffic for traffic in ledger.traffic_history(model) if traffic.settled]
    return Row(month, None, None, None, (), " ".join(said), rollout.champion(settled[-1]) if settled else None)


def incident_of(ledger: Ledger, model: str, version: str) -> Record | None:
    """The newest incident of a version."""
    return _newest(ledger.history(Kind.INCIDENT, model), "version", version)


def _taken_back(ledger: Ledger, model: str, version: str) -> list[str]:
    """That a version was taken back, and why; nothing if it was not."""
    incident = incident_of(ledger, model, version)
    if incident is None:
        return []
    found = incident.payload
    restored = "" if found["seconds"] is None else f" Restored on every replica in {found['seconds']:.1f} s."
    return [f"Rolled back by itself at {found['split'].get(version, 0)} %: {found['reason']}{restored}"]


def _newest(records: Sequence[Record], field: str, value: str) -> Record | None:
    found = _all_of(records, field, value)
    return found[-1] if found else None


def _all_of(records: Sequence[Record], field: str, value: str) -> list[Record]:
    return [record for record in records if record.payload.get(field) == value]


def _names(names: Sequence[str]) -> str:
    if not names:
        return NONE
    more = len(names) - DRIFTED_SHOWN
    text = ", ".join(names[:DRIFTED_SHOWN]) + (f" +{more}" if more > 0 else "")
    return text if len(text) <= WIDTHS[4] else f"{names[0][: WIDTHS[4] - 4]} +{len(names) - 1}"

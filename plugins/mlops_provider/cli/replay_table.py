"""The table of a replay: a view of the ledger, one row a month."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_provider.core import rollout
from mlops_provider.core.evidence import Record
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import Kind

if TYPE_CHECKING:
    from mlops_provider.stores.ledger import Ledger

NONE = "\N{EN DASH}"
SHORT_NAMES = {"roc_auc": "AUC", "average_precision": "average precision"}
DRIFTED_SHOWN = 2
WIDTHS = (7, 7, 5, 19, 22, 7)
DECISION_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Row:
    """
    What a month came to.

    :param rows: Rows that arrived; ``None`` if none were validated.
    :param quarantined: Rows set aside.
    :param score: The serving model's score on the month's labels; ``None`` if no model served it.
    :param drifted: Features beyond their limit, furthest first.
    :param decision: What was decided and why, in words.
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
    settled = [traffic for traffic in ledger.traffic_history(model) if traffic.settled]
    return Row(
        month=month,
        rows=validation.payload["rows"] if validation else None,
        quarantined=validation.payload["quarantined"] if validation else None,
        score=Interval.from_json(measured) if measured else None,
        drifted=tuple(drift.payload["drifted"]) if drift else (),
        decision=_decision(ledger, model, month),
        serving=rollout.champion(settled[-1]) if settled else None,
    )


def heading(metric: str) -> str:
    """The head of the table."""
    names = ("month", "rows", "quar.", f"{SHORT_NAMES.get(metric, metric)} (95 %)", "drifted", "serving")
    cells = "  ".join(f"{name:<{width}}" for name, width in zip(names, WIDTHS, strict=True))
    return f"{cells}  decision and why\n{'-' * (len(cells) + 2 + DECISION_WIDTH)}"


def line(row: Row) -> str:
    """A row as text; a long decision goes on below itself."""
    cells = (
        row.month,
        NONE if row.rows is None else f"{row.rows:>7,}",
        NONE if row.quarantined is None else f"{row.quarantined:>5,}",
        NONE if row.score is None else f"{row.score.value:.3f} ({row.score.low:.3f}-{row.score.high:.3f})",
        _names(row.drifted),
        NONE if row.serving is None else f"v{row.serving}",
    )
    left = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    first, *rest = textwrap.wrap(row.decision, DECISION_WIDTH) or [NONE]
    return "\n".join([f"{left}  {first}", *(f"{'':<{len(left)}}  {more}" for more in rest)])


def _decision(ledger: Ledger, model: str, month: str) -> str:
    retrain = _newest(ledger.history(Kind.RETRAIN, model), "through", month)
    if retrain is None:
        return ""
    reasons = " ".join(retrain.payload["reasons"])
    if not retrain.payload["retrain"]:
        return f"keep: {reasons}"
    said = f"retrain ({retrain.payload['trigger'].replace('_', ' ')}): {reasons}"
    gate = _newest(ledger.history(Kind.GATE, model), "partition", month)
    if gate is None:
        return said
    if not gate.payload["passed"]:
        return f"{said} Rejected: {gate.payload['summary']}"
    registered = _newest(ledger.history(Kind.REGISTRATION, model), "gate", gate.record_id)
    version = f" as v{registered.payload['version']}" if registered else ""
    return f"{said} Passed the gate{version}."


def _newest(records: Sequence[Record], field: str, value: str) -> Record | None:
    return next((record for record in reversed(records) if record.payload.get(field) == value), None)


def _names(names: Sequence[str]) -> str:
    if not names:
        return NONE
    more = len(names) - DRIFTED_SHOWN
    text = ", ".join(names[:DRIFTED_SHOWN]) + (f" +{more}" if more > 0 else "")
    return text if len(text) <= WIDTHS[4] else f"{names[0][: WIDTHS[4] - 4]} +{len(names) - 1}"

"""What is said and recorded of a validation."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from mlops_provider.adapters.expectations import NOT_REVIEWED, load_review
from mlops_provider.adapters.validation_page import validation_page
from mlops_provider.core import partitions
from mlops_provider.core.evidence import canonical
from mlops_provider.core.names import REPORT, Kind
from mlops_provider.exceptions import DataRejectedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_provider.adapters.expectations import Expectation, Validation
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

log = logging.getLogger(__name__)

REASONS = "reasons"
"""Column of the quarantine table: why the row is there, joined by semicolons."""
_LISTED = 10
"""Reasons a message lists at most; the rest is counted."""


def summary(
    spec: ModelSpec,
    stores: Stores,
    month: str,
    checked: Validation,
    expectations: Sequence[Expectation],
    *,
    origin: Origin,
    data: dict[str, Any],
) -> dict[str, Any]:
    """Write the report and return what the ledger keeps of a validation."""
    digest = hashlib.sha256(canonical([each.model_dump() for each in expectations]).encode()).hexdigest()
    shown = f"{data['table']}, version {data['version']}" if "table" in data else "as the source gave it; not landed"
    reviewed = load_review(spec.expectations_path)
    review = f", {reviewed or NOT_REVIEWED}" if reviewed is not None else ""
    about = {"Data": shown, "Expectations": f"{spec.expectations} ({digest[:12]}){review}"}
    report = stores.reports.write(
        origin, REPORT, validation_page(checked, model=spec.name, partition=month, about=about)
    )
    return {
        "partition": month,
        "data": data,
        "expectations": digest,
        "reviewed": reviewed.model_dump(mode="json") if reviewed else reviewed,
        "rows": checked.total,
        "quarantined": len(checked.rejected),
        "passed": not checked.blocking,
        "reasons": list(checked.blocking or checked.quarantined),
        "warnings": list(checked.warnings),
        "outcomes": [outcome.as_json() for outcome in checked.outcomes],
        "report": report,
        "origin": origin.key,
    }


def record(spec: ModelSpec, stores: Stores, month: str, found: dict[str, Any], *, origin: Origin) -> None:
    """Record a validation."""
    # A retry finds the same and gets the record of its first try; a run that is cleared after data or expectations
    # were mended records anew.
    about = hashlib.sha256(
        canonical([found[name] for name in ("data", "expectations", "outcomes")]).encode()
    ).hexdigest()
    stores.ledger.append(
        Kind.VALIDATION,
        spec.name,
        found,
        key=f"{origin.key}:{about}",
        actor=origin.actor,
        as_of=partitions.end(month),
    )


def refused(
    spec: ModelSpec, stores: Stores, month: str, checked: Validation, found: dict[str, Any], *, origin: Origin
) -> DataRejectedError:
    """Record that a month is refused and return the error that says so."""
    record(spec, stores, month, found, origin=origin)
    reasons = checked.blocking
    listed = "; ".join(reasons[:_LISTED]) + (f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else "")
    return DataRejectedError(f"{spec.name} {month} is refused: {listed}. Report: {found['report']}")


def say(checked: Validation) -> None:
    """Log what a person should know of a month that passed."""
    for sentence in (*checked.quarantined, *checked.warnings):
        log.warning("%s", sentence)

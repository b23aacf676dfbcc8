"""Check a table that somebody else wrote against expectations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.adapters import validation
from mlops_provider.adapters.validation_page import validation_page
from mlops_provider.core.evidence import canonical
from mlops_provider.core.names import REPORT, Kind
from mlops_provider.exceptions import ConfigurationError, DataRejectedError
from mlops_provider.steps.evidence import decide_once

if TYPE_CHECKING:
    from datetime import datetime

    from mlops_provider.adapters.expectations import Expectation
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.references import AnyTable
    from mlops_provider.stores.files import Reader
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.reports import Reports


def validate_table(
    table: AnyTable,
    expectations: str,
    *,
    read: Reader,
    model: str,
    pages: Reports | None,
    ledger: Ledger | None,
    origin: Origin,
    as_of: datetime | None = None,
) -> dict[str, Any]:
    """
    Check a table against an expectations file or a suite of Great Expectations.

    Rows that break an expectation are counted, not set apart: the table is somebody else's.

    :param expectations: Path of an ``expectations.yaml``, or of a Great Expectations suite in JSON.
    :param read: Reads a table; only the columns that an expectation names, unless one is about all of them.
    :param pages: Where the rendered page goes; None keeps none.
    :return: ``passed``, ``summary``, ``reasons``, ``warnings``, ``rows``, ``failing``, ``outcomes``, ``expectations``
        (their SHA-256), ``tables``, ``report`` and ``record``.
    :raises SpecError: The file is wrong. Not retried.
    :raises DataRejectedError: The table has no rows. Not retried.
    """
    path = Path(expectations)
    if not path.is_file():
        raise ConfigurationError(f"There is no expectations file at {path.absolute()}: give its whole path.")
    declared = validation.load_suite(path) if path.suffix == ".json" else validation.load_expectations(path)

    digest = hashlib.sha256(canonical([each.model_dump() for each in declared]).encode()).hexdigest()
    rows = read(table, _columns(declared), lenient=True)
    if rows.frame.empty:
        raise DataRejectedError("The table has no rows: there is nothing to check.")

    def compute() -> Mapping[str, Any]:
        checked = validation.validate(rows.frame, declared)
        reasons = [*checked.blocking, *(() if checked.blocking else checked.quarantined)]
        about = {"Data": _shown(rows.about), "Expectations": f"{path.name} ({digest[:12]})"}
        page = validation_page(checked, model=model, partition="", about=about)
        return {
            "passed": not checked.blocking,
            "summary": " ".join(
                ("Refused." if checked.blocking else "Passed.", *(f"{reason}." for reason in reasons[:10]))
            ),
            "reasons": list(checked.blocking),
            "warnings": [*(() if checked.blocking else checked.quarantined), *checked.warnings],
            "rows": checked.total,
            "failing": len(checked.rejected),
            "outcomes": [outcome.as_json() for outcome in checked.outcomes],
            "expectations": digest,
            "tables": {"table": dict(rows.about)},
            "report": None if pages is None else pages.write(origin, REPORT, page),
            "origin": origin.key,
        }

    inputs = {"table": dict(rows.about), "expectations": digest}
    return decide_once(ledger, Kind.TABLE_VALIDATION, model, compute, inputs=inputs, origin=origin, as_of=as_of)


def _columns(declared: Sequence[Expectation]) -> list[str] | None:
    """Columns to read; None, which is all, if an expectation is about the table's columns as such."""
    about_all = any(not each.columns and not each.type.startswith("expect_table_row_count") for each in declared)
    named = list(dict.fromkeys(column for each in declared for column in each.columns))
    return None if about_all or not named else named


def _shown(about: Mapping[str, Any]) -> str:
    if "table" in about:
        return f"{about['table']}" + ("" if about["version"] is None else f", version {about['version']}")
    return f"a query on the connection {about['connection']}"

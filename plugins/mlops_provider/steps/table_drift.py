"""Drift between two tables that somebody else wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import ValidationError

from mlops_provider.adapters import drift
from mlops_provider.core.drift import DriftPolicy, judge
from mlops_provider.core.names import REPORT, Kind
from mlops_provider.exceptions import ConfigurationError, DataRejectedError
from mlops_provider.spec_parts import MonitoringSpec
from mlops_provider.steps.evidence import decide_once

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.core.references import AnyTable
    from mlops_provider.stores.files import Reader
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.reports import Reports

_SEED = 0


def policy(**limits: Any) -> DriftPolicy:
    """
    Limits as a DAG gives them, checked as those of a ``model.yaml`` are.

    :raises ConfigurationError: One is impossible. Not retried.
    """
    try:
        return MonitoringSpec(**limits).policy()
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}" for each in error.errors())
        raise ConfigurationError(f"The limits of the drift check are wrong: {said}") from error


def detect_table_drift(
    reference: AnyTable,
    current: AnyTable,
    *,
    read: Reader,
    numeric: Sequence[str],
    categorical: Sequence[str],
    policy: DriftPolicy,
    model: str,
    pages: Reports | None,
    ledger: Ledger | None,
    origin: Origin,
    as_of: datetime | None = None,
) -> dict[str, Any]:
    """
    Compare the columns of two tables, and say whether they lie further apart than is allowed.

    :param reference: What is expected, such as the rows a model was trained on.
    :param current: What came.
    :param read: Reads a table; of each only the columns named.
    :param pages: Where Evidently's page goes; None keeps none.
    :return: ``alarm``, ``drifted``, ``reasons``, ``warnings``, ``columns``, ``rows``, ``tables``, ``report`` and
        ``record``.
    :raises DataRejectedError: A table has no rows, or a number is none. Not retried.
    """
    columns = [*numeric, *categorical]
    if not columns:
        raise ConfigurationError("Which columns shall be compared? Name them in numeric, categorical or both.")

    before, now = read(reference, columns), read(current, columns)
    tables = {"reference": dict(before.about), "current": dict(now.about)}

    def compute() -> Mapping[str, Any]:
        found = drift.measure(
            _typed(before.frame, numeric, "reference"),
            _typed(now.frame, numeric, "current"),
            policy,
            numeric=numeric,
            categorical=categorical,
            seed=_SEED,
            as_of=as_of or datetime.now(UTC),
            name=origin.key,
            title=f"{model}: what came against what was expected",
        )
        verdict = judge(policy, found.columns, rows=found.rows)
        return {
            **verdict.as_json(),
            "drifted": list(verdict.drifted),
            "rows": found.rows,
            "limits": policy.as_json(),
            "tables": tables,
            "report": None if pages is None else pages.write(origin, REPORT, found.html),
            "origin": origin.key,
        }

    inputs = {"tables": tables, "limits": policy.as_json(), "categorical": list(categorical)}
    return decide_once(ledger, Kind.TABLE_DRIFT, model, compute, inputs=inputs, origin=origin, as_of=as_of)


def _typed(frame: pd.DataFrame, numeric: Sequence[str], which: str) -> pd.DataFrame:
    if frame.empty:
        raise DataRejectedError(f"The {which} table has no rows: there is nothing to compare.")
    try:
        return frame.assign(**{name: frame[name].astype("float64") for name in numeric})
    except (TypeError, ValueError) as error:
        wrong = ", ".join(f"{name} ({frame[name].dtype})" for name in numeric if frame[name].dtype == object)
        raise DataRejectedError(
            f"The {which} table has columns that are no numbers: {wrong}. Name them in categorical, or cast them."
        ) from error

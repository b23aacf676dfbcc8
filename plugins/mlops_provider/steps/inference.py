"""A suite of expectations from what landed first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_provider.adapters import inferred_expectations
from mlops_provider.adapters.expectations import load_review
from mlops_provider.core import partitions
from mlops_provider.core.names import PARTITION, Table
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import ConfigurationError, DataRejectedError

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


@dataclass(frozen=True, slots=True)
class Inferred:
    """
    What was written.

    :param partition: Month it was inferred from.
    :param rows: Rows of that month.
    :param severities: Expectations by severity.
    """

    partition: str
    rows: int
    severities: Mapping[str, int]


def infer_expectations(spec: ModelSpec, stores: Stores, *, partition: str | None = None, path: Path) -> Inferred:
    """
    Write a suite that describes a landed month, marked as not reviewed.

    :param partition: The month; by default the first that landed.
    :param path: File to write. A suite that lies there is replaced, unless people have reviewed or written it.
    :raises DataRejectedError: Nothing has landed, or not that month. Not retried.
    :raises ConfigurationError: There is a suite that is not for a machine to replace. Not retried.
    """
    if path.exists() and load_review(path) is not False:
        raise ConfigurationError(
            f"{path} is the work of people ({load_review(path) or 'it is not marked as inferred'}) and is not "
            "overwritten. Write another file with --output and compare."
        )
    raw = stores.tables.uri(spec.name, Table.RAW)
    landed = sorted(stores.tables.partitions(raw))
    month = partitions.check(partition) if partition else next(iter(landed), "")
    version = stores.tables.version(raw)
    if version is None or month not in landed:
        there = f"only {', '.join(landed[:5])}" if landed else "no month has landed"
        raise DataRejectedError(
            f"{spec.name} has no landed {month or 'data'}: {there}. Land it first: mlops run ingest --partition "
            f"{month or spec.first_partition}."
        )
    frame = stores.tables.read(TableRef(raw, version, month)).drop(columns=PARTITION, errors="ignore")
    suite = inferred_expectations.infer(frame, keys=spec.keys, event_time=spec.event_time)
    about = f"{month} of {spec.name} as it landed, {len(frame):,} rows"
    path.write_text(inferred_expectations.as_yaml(suite, about=about), encoding="utf-8")
    return Inferred(month, len(frame), Counter(each.severity for each in suite))

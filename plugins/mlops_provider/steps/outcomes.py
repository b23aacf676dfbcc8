"""Labels: recorded once known, and joined with features to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from mlops_provider.adapters import tasks
from mlops_provider.core import partitions
from mlops_provider.core.names import PARTITION, Kind, Table
from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError
from mlops_provider.steps import feedback
from mlops_provider.steps.lineage import described
from mlops_provider.steps.source import read_source

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


def record_outcomes(spec: ModelSpec, stores: Stores, partition: str, *, origin: Origin) -> TableRef:
    """
    Write the labels that are known for a partition to the outcomes table: the source's, and over them what was told.

    :raises DataRejectedError: No label, one that the target can't have, or two labels for one key. Not retried.
    :raises SourceError: The source of the labels is missing or unreadable. Not retried.
    :raises TransientError: The source or the store is away. Retried.
    """
    month = partitions.check(partition)
    writer = stores.tables.replace_partition(stores.tables.uri(spec.name, Table.OUTCOMES), month)
    posted = feedback.outcomes_of(spec, stores, month)
    frame = _checked(spec, month, feedback.merged(spec, read_source(spec, stores, "outcomes", month), posted))
    written = writer.write(frame, origin_key=origin.key)
    stores.ledger.append(
        Kind.OUTCOMES,
        spec.name,
        {
            **described(written),
            **tasks.TASKS[spec.task.name].described(frame[spec.target.name].to_numpy(dtype="float64")),
            **({"told": len(posted)} if len(posted) else {}),
            "code": spec.code_digest,
            "origin": origin.key,
        },
        key=f"{origin.key}:{written.content}",
        actor=origin.actor,
        as_of=spec.labels_known_at(month),
    )
    return written.ref


def ensure_outcomes(spec: ModelSpec, stores: Stores, wanted: Sequence[str], *, origin: Origin) -> TableRef:
    """
    Record the outcomes of those partitions that have none, and give the version of the table that holds all.

    Raises as `record_outcomes` does.
    """
    uri = stores.tables.uri(spec.name, Table.OUTCOMES)
    recorded = set(stores.tables.partitions(uri))
    for partition in wanted:
        if partition not in recorded:
            record_outcomes(spec, stores, partition, origin=origin)
    version = stores.tables.version(uri)
    if version is None:
        raise DataRejectedError(f"{spec.name!r} has no outcomes.")
    return TableRef(uri, version)


def labelled_features(
    spec: ModelSpec,
    stores: Stores,
    features: TableRef,
    outcomes: TableRef,
    wanted: Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    equal: tuple[str, str] | None = None,
) -> pd.DataFrame:
    """
    Join features with their outcomes; rows without a label are left out.

    :param wanted: Partitions to read.
    :param columns: Feature columns to read beside keys, event time and partition; all of the table by default.
    :param equal: Feature column and text: only rows that hold it there.
    :return: Keys, event time, partition, features and target, (n_labelled_rows, n_columns), in a stable order.
    :raises DataRejectedError: No row has a label, or a key comes twice. Not retried.
    """
    read = None if columns is None else [*dict.fromkeys([*spec.keys, spec.event_time, PARTITION, *columns])]
    parts = []
    for partition in wanted:
        found = stores.tables.read(features, columns=read, partitions=[partition], equal=equal)
        rows = found.assign(**{PARTITION: partition})
        labels = stores.tables.read(outcomes, columns=[*spec.keys, spec.target.name], partitions=[partition])
        parts.append(_joined(spec, partition, rows, labels))
    parts = [rows for rows in parts if len(rows)]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if frame.empty:
        raise DataRejectedError(f"No feature row of {_span(wanted)} has an outcome: nothing to learn from or to score.")
    return frame


def _joined(spec: ModelSpec, partition: str, rows: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    try:
        return rows.merge(labels, on=list(spec.keys), how="inner", validate="one_to_one")
    except pd.errors.MergeError as error:
        raise DataRejectedError(
            f"{partition}: keys {', '.join(spec.keys)} do not identify a row: some come twice in features or outcomes."
        ) from error


def _checked(spec: ModelSpec, partition: str, found: pd.DataFrame) -> pd.DataFrame:
    columns = [*spec.keys, spec.target.name]
    if missing := [column for column in columns if column not in found]:
        raise DataRejectedError(f"Outcomes of {partition} lack the column(s) {', '.join(missing)}.")
    if found.empty:
        raise DataRejectedError(f"No outcome of {partition} is known yet: run again when labels have arrived.")
    if wrong := tasks.TASKS[spec.task.name].wrong(found[spec.target.name]):
        raise DataRejectedError(f"Outcomes of {partition}: {wrong} in {spec.target.name!r}.")
    if doubled := int(found.duplicated(list(spec.keys)).sum()):
        raise DataRejectedError(f"Outcomes of {partition}: {doubled:,} keys have more than one.")
    return found[columns].sort_values(list(spec.keys), kind="stable").reset_index(drop=True)


def _span(months: Sequence[str]) -> str:
    return f"{months[0]} to {months[-1]}" if len(months) > 1 else "".join(months) or "no month"

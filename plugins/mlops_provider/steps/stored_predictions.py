"""Predictions that a version made and that were stored, beside the features it made them from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mlops_provider.adapters.scoring import ANSWERED_BY, PREDICTION, ROWS_AT_ONCE, SCORED_BY, VERSION
from mlops_provider.core.names import Arm, Kind, Table
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import SourceError
from mlops_provider.steps.package_folder import TYPES

if TYPE_CHECKING:
    from mlops_provider.core.columns import Column
    from mlops_provider.core.evidence import Record
    from mlops_provider.stores.suite import Stores

ADDED = frozenset({PREDICTION, VERSION, SCORED_BY, ANSWERED_BY})


@dataclass(frozen=True, slots=True)
class StoredPredictions:
    """
    Rows of a version that were predicted and stored.

    :param rows: The columns the version takes and ``prediction``, (n_rows, n_columns + 1).
    :param about: Where they are from, as JSON: ``predictions`` and ``features`` (references) with the ledger's
        ``record`` of them and ``of`` (rows of the month), or ``prediction_log`` (reference).
    """

    rows: pa.Table
    about: Mapping[str, Any]


def stored_predictions(
    stores: Stores, model: str, version: str, columns: Sequence[Column], *, rows: int
) -> StoredPredictions | None:
    """
    Take stored predictions of a version: of the newest month it scored, else from the server's prediction log.

    :param columns: What the version takes.
    :param rows: How many at most, spread evenly over the month, or as the log gives them.
    :return: None if none are stored, or what they were made from is gone.
    :raises StoreUnavailableError: The tables are away. Retried.
    """
    names = [column.name for column in columns]
    for record in reversed(stores.ledger.history(Kind.PREDICTIONS, model)):
        if record.payload["model_version"] == version and (found := _scored(stores, record, names, rows)):
            return found
    return _served(stores, model, version, columns, rows)


def _scored(stores: Stores, record: Record, columns: list[str], rows: int) -> StoredPredictions | None:
    """Rows of a month that was scored; None if one of its tables no longer has that version, or others lie there."""
    written = TableRef.from_json(record.payload)
    made_from = TableRef.from_json(record.payload["from"][0])
    features = TableRef(made_from.table, made_from.version, written.partition)
    try:
        predicted, given = stores.tables.rows(written), stores.tables.rows(features)
        if not len(predicted) or len(predicted) != len(given):
            return None
        places = _spread(len(predicted), rows)
        keys = [name for name in predicted.columns if name not in ADDED]
        with stores.tables.explained(written.table):
            answers = predicted.take(places, columns=[*keys, PREDICTION])
        with stores.tables.explained(features.table):
            # A row of the one is the same row of the other; keys and times say whether that is so.
            if not answers[keys].equals(given.take(places, columns=keys)):
                return None
            table = _taken(given.blocks(ROWS_AT_ONCE, columns=columns), places)
    except SourceError:
        return None
    about = {
        "predictions": written.as_json(),
        "features": features.as_json(),
        "record": record.record_id,
        "of": len(predicted),
    }
    return StoredPredictions(table.append_column(PREDICTION, pa.array(answers[PREDICTION], pa.float64())), about)


def _taken(blocks: Iterator[pa.Table], places: NDArray[np.int64]) -> pa.Table:
    """Rows at *places*, which rise, with the types they are stored in."""
    found, first = [], 0
    for block in blocks:
        low, high = np.searchsorted(places, [first, first + len(block)])
        found.append(block.take(pa.array(places[low:high] - first)))
        first += len(block)
    return pa.concat_tables(found)


def _served(stores: Stores, model: str, version: str, columns: Sequence[Column], rows: int) -> StoredPredictions | None:
    """Rows that the server answered with a version; None if there are none."""
    uri = stores.tables.uri(model, Table.PREDICTION_LOG)
    newest = stores.tables.version(uri)
    if newest is None:
        return None
    reference = TableRef(uri, newest)
    logged = stores.tables.read(
        reference, columns=["arm", "features", PREDICTION], equal=(VERSION, version), limit=rows
    )
    logged = logged[logged["arm"] != Arm.FALLBACK]
    if logged.empty:
        return None
    given = [json.loads(text) for text in logged["features"]]
    cells = {column.name: _cells(column, [row.get(column.name) for row in given]) for column in columns}
    cells[PREDICTION] = pa.array(logged[PREDICTION], pa.float64())
    return StoredPredictions(pa.table(cells), {"prediction_log": reference.as_json()})


def _cells(column: Column, values: list[Any]) -> pa.Array:
    """Cells as the server's arrays have them."""
    if column.kind == "time":
        return pa.array(pd.to_datetime(pd.Series(values), utc=True).dt.tz_localize(None), TYPES["time"])
    kind = TYPES["number"] if column.kind == "whole" and None in values else TYPES[column.kind]
    return pa.array(values, kind)


def _spread(there: int, wanted: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, there - 1, wanted).astype(np.int64))

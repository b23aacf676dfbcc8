"""Which version scores a month, and what it says of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_provider.adapters import scoring
from mlops_provider.core.names import Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import DataRejectedError, NothingToDo, SourceError, SpecError
from mlops_provider.steps import models
from mlops_provider.steps.learning import threads
from mlops_provider.steps.provenance import registration
from mlops_provider.steps.traffic import champion

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.rows import Rows
    from mlops_provider.stores.suite import Stores


def version_for(spec: ModelSpec, stores: Stores, month: str) -> str:
    """
    Name the version that scores a month.

    :raises NothingToDo: No version was ever put in service, or it was trained on this very month.
    """
    version = champion(stores.ledger, spec.name)
    if version is None:
        raise NothingToDo(f"{spec.name} has no version in service yet, so {month} has no predictions.")
    registered = registration(stores.ledger, spec.name, version)
    if registered and month <= (trained_through := registered.payload["trained_through"]):
        raise NothingToDo(
            f"Version {version} was trained on data through {trained_through}: predictions of {month} would flatter it."
        )
    return version


def predictions(
    spec: ModelSpec,
    stores: Stores,
    version: str,
    rows: Rows,
    *,
    start: int = 0,
    stop: int | None = None,
    scored_by: str,
) -> pd.DataFrame:
    """
    Predict rows with a version, by the scorer that the model server uses too.

    :param rows: Features of a partition.
    :param start: First row.
    :param stop: Row before which to end.
    :return: Keys, event time, ``prediction``, ``version`` and ``scored_by``; of a model of segments ``answered_by``.
    :raises SpecError: A column that is kept has the name of one that is added. Not retried.
    :raises DataRejectedError: The model does not take a value that is there. Not retried.
    """
    kept = list(dict.fromkeys([*spec.keys, spec.event_time]))
    if taken := {scoring.PREDICTION, scoring.VERSION, scoring.SCORED_BY, scoring.ANSWERED_BY}.intersection(kept):
        raise SpecError(f"{spec.path}: {', '.join(sorted(taken))}: a predictions table has a column of that name.")
    scorer = models.scorer(stores.registry, stores.ledger, spec.name, version)
    blocks = rows.blocks(
        scoring.ROWS_AT_ONCE, start=start, stop=stop, columns=[column.name for column in scorer.columns]
    )
    try:
        with stores.tables.explained(rows.uri):
            predicted = rows.frame(start, stop, columns=kept)
            found = scoring.predictions(scorer, blocks, threads=threads(spec, Task.SCORE_BATCH))
    except (ValueError, TypeError) as error:
        raise DataRejectedError(
            f"Version {version} of {spec.name!r} can't score rows of {rows.uri} ({type(error).__name__}): cells are "
            "missing, or of a kind that it never saw in training. Look at the features, or train on such rows."
        ) from error
    predicted[scoring.PREDICTION], predicted[scoring.VERSION] = found, version
    predicted[scoring.SCORED_BY] = scored_by
    if scorer.segmented is not None:
        with stores.tables.explained(rows.uri):
            routed = rows.frame(start, stop, columns=[scorer.segmented.column])
        predicted[scoring.ANSWERED_BY] = scorer.segmented.answered_by(routed)
    return predicted


def newest_features(stores: Stores, model: str, month: str) -> TableRef:
    """
    Name the newest features of a month.

    :raises SourceError: There is no table of them. Not retried.
    """
    table = stores.tables.uri(model, Table.FEATURES)
    version = stores.tables.version(table)
    if version is None:
        raise no_features(model, month)
    return TableRef(table, version, month)


def no_features(model: str, month: str) -> SourceError:
    """Say that a month has no features."""
    return SourceError(f"{model} has no features of {month}: run its ingest for that month first.")

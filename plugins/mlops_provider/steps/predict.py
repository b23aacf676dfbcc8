"""Which version scores a month, and what it says of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mlops_provider.adapters import scoring
from mlops_provider.core.names import Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import NothingToDo, SourceError, SpecError
from mlops_provider.steps.provenance import registration
from mlops_provider.steps.traffic import champion

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.spec import ModelSpec
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
    spec: ModelSpec, stores: Stores, version: str, read: Callable[[list[str]], pd.DataFrame], *, scored_by: str
) -> pd.DataFrame:
    """
    Predict rows with a version.

    :param read: Gives the rows with the columns it is asked for.
    :raises SpecError: A column that is kept has the name of one that is added. Not retried.
    """
    model = stores.registry.load_model(f"models:/{spec.name}/{version}")
    # What the model was trained on, which need not be what model.yaml lists today.
    columns = [str(name) for name in getattr(model, "feature_names_in_", spec.feature_columns)]
    kept = tuple(dict.fromkeys([*spec.keys, spec.event_time]))
    taken = {scoring.PREDICTION, scoring.VERSION, scoring.SCORED_BY, scoring.ANSWERED_BY}.intersection(kept)
    if taken:
        raise SpecError(f"{spec.path}: {', '.join(sorted(taken))}: a predictions table has a column of that name.")
    resources = spec.resources.get(Task.SCORE_BATCH)
    return scoring.predictions(
        model,
        read(list(dict.fromkeys([*kept, *columns]))),
        columns=columns,
        kept=kept,
        version=version,
        scored_by=scored_by,
        threads=(resources and resources.threads) or 1,
    )


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

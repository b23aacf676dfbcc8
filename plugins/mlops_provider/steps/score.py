"""Predictions for a whole month with the version in service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_provider.adapters import scoring
from mlops_provider.core import partitions
from mlops_provider.core.names import Kind, Table, Task
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import NothingToDo, SourceError, SpecError
from mlops_provider.steps.lineage import record_written
from mlops_provider.steps.provenance import registration
from mlops_provider.steps.traffic import champion

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


def score(
    spec: ModelSpec, stores: Stores, partition: str, features: TableRef | None = None, *, origin: Origin
) -> TableRef:
    """
    Predict every row of a month with the version that has most of the traffic; rows without a label too.

    Repeating it replaces the month's predictions.

    :param features: The features; by default the newest of that month.
    :return: Reference to the predictions.
    :raises NothingToDo: No version was ever put in service, or it was trained on this very month.
    :raises SourceError: There are no features of that month. Not retried.
    """
    month = partitions.check(partition)
    version = champion(stores.ledger, spec.name)
    if version is None:
        raise NothingToDo(f"{spec.name} has no version in service yet, so {month} has no predictions.")
    registered = registration(stores.ledger, spec.name, version)
    if registered and month <= (trained_through := registered.payload["trained_through"]):
        raise NothingToDo(
            f"Version {version} was trained on data through {trained_through}: predictions of {month} would flatter it."
        )
    model = stores.registry.load_model(f"models:/{spec.name}/{version}")
    # What the model was trained on, which need not be what model.yaml lists today.
    columns = [str(name) for name in getattr(model, "feature_names_in_", spec.feature_columns)]
    tables = stores.tables
    writer = tables.replace_partition(tables.uri(spec.name, Table.PREDICTIONS), month)
    features = features or _newest(stores, spec.name, month)
    kept = tuple(dict.fromkeys([*spec.keys, spec.event_time]))
    rows = tables.read(features, columns=list(dict.fromkeys([*kept, *columns])))
    if rows.empty:
        raise _no_features(spec.name, month)
    taken = {scoring.PREDICTION, scoring.VERSION, scoring.SCORED_BY}.intersection(kept)
    if taken:
        raise SpecError(f"{spec.path}: {', '.join(sorted(taken))}: a predictions table has a column of that name.")

    resources = spec.resources.get(Task.SCORE_BATCH)
    predicted = scoring.predictions(
        model,
        rows,
        columns=columns,
        kept=kept,
        version=version,
        scored_by=origin.key,
        threads=(resources and resources.threads) or 1,
    )
    written = writer.write(predicted, origin_key=origin.key)
    record_written(Kind.PREDICTIONS, spec, stores, written, origin=origin, sources=[features], model_version=version)
    return written.ref


def _newest(stores: Stores, model: str, month: str) -> TableRef:
    table = stores.tables.uri(model, Table.FEATURES)
    version = stores.tables.version(table)
    if version is None:
        raise _no_features(model, month)
    return TableRef(table, version, month)


def _no_features(model: str, month: str) -> SourceError:
    return SourceError(f"{model} has no features of {month}: run its ingest for that month first.")

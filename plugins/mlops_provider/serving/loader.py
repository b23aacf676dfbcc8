"""Bring a registered version into memory, if it may serve."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from mlops_provider.adapters import scoring, tasks
from mlops_provider.exceptions import ServingCheckError
from mlops_provider.serving.protocol import Column, Kind, listed
from mlops_provider.serving.snapshot import LoadedVersion
from mlops_provider.steps.approval import require_approval

if TYPE_CHECKING:
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.registry import Registry

_KINDS: Mapping[str, Kind] = {
    "double": "number",
    "float": "number",
    "integer": "whole",
    "long": "whole",
    "string": "text",
    "boolean": "flag",
    "datetime": "time",
}


def load(registry: Registry, ledger: Ledger, model: str, version: str) -> LoadedVersion:
    """
    Load a version that passed the gate.

    :raises RolloutRefusedError: The ledger does not know it as registered through the gate. Not retried.
    :raises ServingCheckError: Its files could run code, its signature is not columns of plain types, or it is
        neither a classifier nor a regressor. Not retried.
    :raises StoreUnavailableError: The ledger or MLflow is away. Retried.
    """
    require_approval(ledger, model, version)
    columns = _columns(registry, f"models:/{model}/{version}")
    pipeline = registry.load_model(f"models:/{model}/{version}")
    predict = partial(tasks.of_model(pipeline).predict, pipeline)
    return LoadedVersion(version, predict, columns, scoring.who_answers(pipeline))


def _columns(registry: Registry, uri: str) -> tuple[Column, ...]:
    signature = registry.signature(uri)
    schema = signature.inputs if signature else None
    if schema is None or not schema.has_input_names():
        raise ServingCheckError("The model was logged without a signature that names its columns.")
    types = {str(column.name): getattr(column.type, "name", "") for column in schema.inputs}
    strange = [name for name, kind in types.items() if kind not in _KINDS]
    if strange:
        raise ServingCheckError(f"Columns of a type that can't be served: {listed(strange)}.")
    return tuple(Column(name, _KINDS[kind]) for name, kind in types.items())

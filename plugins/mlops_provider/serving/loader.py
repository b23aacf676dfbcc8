"""Bring a registered version into memory, if it may serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import NDArray

from mlops_provider.serving.columns import Arrays
from mlops_provider.serving.snapshot import LoadedVersion
from mlops_provider.steps import models
from mlops_provider.steps.approval import refuse_unapproved

if TYPE_CHECKING:
    from mlops_provider.adapters.scorers import Scorer
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.registry import Registry


def load(registry: Registry, ledger: Ledger, model: str, version: str) -> LoadedVersion:
    """
    Load a version that passed the gate, and that a person approved if its declaration asks for that.

    :raises RolloutRefusedError: The ledger does not know it as such. Not retried.
    :raises EvidenceError: Its files are not those that were registered. Not retried.
    :raises ServingCheckError: Its files could run code, its signature is not columns of plain types, or it is
        neither a classifier nor a regressor. Not retried.
    :raises StoreUnavailableError: The ledger or MLflow is away. Retried.
    """
    refuse_unapproved(ledger, model, version)
    return loaded(version, models.scorer(registry, ledger, model, version))


def loaded(version: str, scorer: Scorer) -> LoadedVersion:
    """Give a version as the server holds it."""
    answered_by = of_arrays(scorer.segmented.answered_by) if scorer.segmented else None
    return LoadedVersion(version, scorer.predict, scorer.columns, answered_by)


def of_arrays(function: Callable[[pd.DataFrame], NDArray[Any]]) -> Callable[[Arrays], NDArray[Any]]:
    """Let a function of a frame take arrays of its columns."""
    return lambda columns: function(pd.DataFrame(dict(columns), copy=False))

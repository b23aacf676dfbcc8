"""Bring a registered version into memory, if it may serve."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mlops_provider.serving.protocol import Column
from mlops_provider.serving.snapshot import LoadedVersion
from mlops_provider.steps import models
from mlops_provider.steps.approval import require_approval

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from mlops_provider.adapters.scorers import Scorer
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.registry import Registry


def load(registry: Registry, ledger: Ledger, model: str, version: str) -> LoadedVersion:
    """
    Load a version that passed the gate.

    :raises RolloutRefusedError: The ledger does not know it as registered through the gate. Not retried.
    :raises EvidenceError: Its files are not those that were registered. Not retried.
    :raises ServingCheckError: Its files could run code, its signature is not columns of plain types, or it is
        neither a classifier nor a regressor. Not retried.
    :raises StoreUnavailableError: The ledger or MLflow is away. Retried.
    """
    require_approval(ledger, model, version)
    scorer = models.scorer(registry, ledger, model, version)
    columns = tuple(Column(each.name, each.kind) for each in scorer.columns)
    answered_by = scorer.segmented.answered_by if scorer.segmented else None
    return LoadedVersion(version, partial(_predictions, scorer), columns, answered_by)


def _predictions(scorer: Scorer, rows: pd.DataFrame) -> NDArray[np.float64]:
    return scorer.predict({str(name): rows[name].to_numpy() for name in rows.columns})

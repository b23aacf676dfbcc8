"""A candidate that passed gets an ONNX graph, if one gives its own predictions on the rows of the gate."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_provider.adapters import conversion, training
from mlops_provider.core.names import Task
from mlops_provider.core.references import TableRef
from mlops_provider.steps import models
from mlops_provider.steps.learning import threads
from mlops_provider.stores import model_files

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.core.evidence import Record
    from mlops_provider.spec import ModelSpec
    from mlops_provider.steps.declaration import Declaration
    from mlops_provider.stores.suite import Stores

log = logging.getLogger(__name__)

ROWS = 100_000
"""Rows of the gate's partition, spread over it, that the graph must predict as the model does; all if it has fewer."""


def convert(spec: ModelSpec, stores: Stores, trained: Record, declared: Declaration) -> dict[str, Any]:
    """
    Convert the model of a run and put the graph beside it, if the two predict the same.

    :param trained: Record of the run's training.
    :return: For the record of the registration: ``form`` is "onnx" or "estimator", and why.
    :raises ServingCheckError: The model's files could run code. Not retried.
    """
    model = models.candidate(stores.registry, trained)
    columns = stores.registry.columns(trained.payload["model_uri"])
    rows = _rows(stores, declared, [each.name for each in columns])
    try:
        with training.bounded_threads(threads(spec, Task.REGISTER_MODEL)):
            graph = conversion.converted(model, columns, rows.head(1))
            difference = conversion.largest_difference(graph, model, columns, rows)
    except conversion.NotConvertibleError as reason:
        log.info("Version is served as it is, not converted: %s", reason)
        return {"form": "estimator", "reason": f"not converted: {reason}."}
    except Exception as error:  # private parts of other libraries are read and run; a model that passed must not fail
        log.warning("Version is served as it is, not converted", exc_info=True)
        return {"form": "estimator", "reason": f"not converted: trying it ended in {type(error).__name__}."}
    stores.registry.add_file(trained.payload["run_id"], model_files.SCORER, graph)
    return {
        "form": "onnx",
        "file": hashlib.sha256(graph).hexdigest(),
        "rows": len(rows),
        "largest_difference": difference,
        "tolerance": conversion.TOLERANCE,
    }


def _rows(stores: Stores, declared: Declaration, columns: list[str]) -> pd.DataFrame:
    gate = TableRef(declared.features.table, declared.features.version, declared.through)
    held = stores.tables.rows(gate)
    return held.take(np.unique(np.linspace(0, len(held) - 1, ROWS).astype(np.int64)), columns=columns)

"""What children have loaded before they are forked; only the process that forks them imports this."""

from __future__ import annotations

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store
from mlflow.utils import requirements_utils

from support import children

__all__ = ["children", "mlflow"]

# MLflow looks through all installed packages once per process, when it stores its first model.
requirements_utils._init_packages_to_modules_map()

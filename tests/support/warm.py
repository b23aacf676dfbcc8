"""What children have loaded before they are forked; only the process that forks them imports this."""

from __future__ import annotations

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - to load it is all that is wanted
from mlflow.utils import requirements_utils

from support import children  # noqa: F401 - likewise

# MLflow looks through all installed packages once per process, when it stores its first model.
requirements_utils._init_packages_to_modules_map()

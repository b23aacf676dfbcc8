"""
Import the heavy libraries once, in the process that Airflow forks its workers from.

Importing MLflow, Great Expectations, scikit-learn and Evidently takes 10 seconds and more; a task
that is forked from a process which holds them already pays nothing. Called from
``airflow_local_settings.py``, which every Airflow process imports, hence the guard.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence

log = logging.getLogger(__name__)

MODULES = (
    "mlops_provider.steps.ingest",
    "mlops_provider.steps.score",
    "mlops_provider.steps.monitor",
    "mlops_provider.steps.train",
    "mlops_provider.steps.deploy",
    "mlops_provider.stores.tables",
    "mlops_provider.stores.registry",
    "mlops_provider.stores.ledger",
    "mlops_provider.stores.reports",
    "mlops_provider.stores.predictions",
    "mlops_provider.adapters.validation",
    "mlops_provider.adapters.training",
    "mlops_provider.adapters.evaluation",
    "mlops_provider.adapters.drift",
)


def forks_tasks(argv: Sequence[str]) -> bool:
    """Whether this command line is one whose process forks tasks: the scheduler or a Celery worker."""
    return list(argv[1:2]) == ["scheduler"] or list(argv[1:3]) == ["celery", "worker"]


def warm(modules: Sequence[str] = MODULES, argv: Sequence[str] | None = None) -> list[str]:
    """
    Import *modules*, if this process forks tasks.

    It only imports: a client, thread or pool made before a fork is broken after it. A module whose library
    is not installed is left out, as its tasks could not run here anyway. ``MLOPS_PRELOAD=0`` switches it off.

    :return: The modules that were imported.
    """
    if not forks_tasks(sys.argv if argv is None else argv) or os.environ.get("MLOPS_PRELOAD") == "0":
        return []
    began = time.monotonic()
    imported = []
    # Collecting while thousands of modules load only costs time: they all stay.
    gc.disable()
    try:
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as missing:
                log.warning("Not preloaded: %s (%s)", module, missing)
            else:
                imported.append(module)
    finally:
        gc.enable()
    # Airflow's logging is not set up yet when its local settings are imported.
    sys.stderr.write(f"Preloaded {len(imported)} of {len(modules)} modules in {time.monotonic() - began:.1f} s\n")
    return imported

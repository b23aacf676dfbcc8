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
from pathlib import Path
from pkgutil import iter_modules

log = logging.getLogger(__name__)

PACKAGES = ("adapters", "stores", "steps")


def modules() -> list[str]:
    """Every module that a task may import inside ``execute``, found by looking into the packages that hold them."""
    root = Path(__file__).parent
    found = (info.name for package in PACKAGES for info in iter_modules([str(root / package)], f"{package}."))
    return [f"mlops_provider.{name}" for name in (*found, "spec", "targets")]


def forks_tasks(argv: Sequence[str]) -> bool:
    """Whether this command line is one whose process forks tasks: the scheduler or a Celery worker."""
    return list(argv[1:2]) == ["scheduler"] or list(argv[1:3]) == ["celery", "worker"]


def warm(names: Sequence[str] | None = None, argv: Sequence[str] | None = None) -> list[str]:
    """
    Import what tasks need, if this process forks tasks.

    It only imports: a client, thread or pool made before a fork is broken after it. A module whose library
    is not installed is left out, as its tasks could not run here anyway. ``MLOPS_PRELOAD=0`` switches it off.

    :param names: Modules to import; by default all that tasks of this package may need.
    :param argv: Command line of the process; by default the real one.
    :return: The modules that were imported.
    """
    if not forks_tasks(sys.argv if argv is None else argv) or os.environ.get("MLOPS_PRELOAD") == "0":
        return []
    began = time.monotonic()
    imported, names = [], modules() if names is None else names
    # Collecting while thousands of modules load only costs time: they all stay.
    gc.disable()
    try:
        for module in names:
            try:
                importlib.import_module(module)
            except ImportError as missing:
                log.warning("Not preloaded: %s (%s)", module, missing)
            else:
                imported.append(module)
    finally:
        gc.enable()
    # A forked task that collected this garbage would look through it all, and so copy the memory it shares.
    gc.freeze()
    # Airflow's logging is not set up yet when its local settings are imported.
    sys.stderr.write(f"Preloaded {len(imported)} of {len(names)} modules in {time.monotonic() - began:.1f} s\n")
    return imported

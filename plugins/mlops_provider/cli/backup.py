"""``mlops backup`` and ``mlops restore``: everything into one folder, and from there into an empty place."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_provider.cli.home import Home, required, use_home
from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError

if TYPE_CHECKING:
    from mlops_provider.steps.backup import Places


_KINSHIP = {
    False: "It stands in for the place that was backed up, which must not go on (else: mlops restore --as-copy).",
    True: "It is a copy with a ledger of its own; the place that was backed up may go on.",
}


def main(arguments: argparse.Namespace) -> int:
    """Make a backup, or look whether one is whole."""
    from mlops_provider.steps import backup

    folder = Path(arguments.folder)
    if not arguments.verify:
        logging.basicConfig(level=logging.INFO, format="  %(message)s")
        backup.backup(places(arguments.registry_database), folder)
    manifest = backup.verify(folder)
    size = sum(entry.size for entry in manifest.files.values())
    print(
        f"Backup of {manifest.made_at} in {folder} is whole: {len(manifest.files)} files, {size:,} bytes, "
        f"{manifest.about['records']} ledger records, head {manifest.about['head'] or 'none'}."
    )
    return 0


def restore(arguments: argparse.Namespace) -> int:
    """Fill the places that the settings name, which must be empty."""
    from mlops_provider.steps import backup
    from mlops_provider.steps.upgrade import upgrade

    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    there = places(arguments.registry_database, arguments.artifacts)
    manifest = backup.restore(there, Path(arguments.folder), as_copy=arguments.as_copy)
    print(f"Restored the backup of {manifest.made_at}. {_KINSHIP[arguments.as_copy]}")
    if older := list(upgrade(there.stores, dry_run=True)):
        print(f"{len(older)} of its tables have an older layout. Bring them to this one's with: mlops upgrade")
    print("Check it with: mlops audit verify")
    return 0


def places(database: str | None, artifacts: str | None = None) -> Places:
    """What the settings name, and the database behind MLflow."""
    from mlops_provider.steps.backup import Places
    from mlops_provider.stores.suite import Stores

    home = use_home()
    for variable in (Environment.LEDGER_URL, Environment.TABLES_URI):
        required(variable)
    spool = os.environ.get(Environment.SPOOL_DIR)
    return Places(
        stores=Stores.from_environment(),
        registry_database=database
        or os.environ.get("MLFLOW_BACKEND_STORE_URI")
        or database_of(required(Environment.REGISTRY_URI), home),
        spool=Path(spool) if spool else None,
        shipped=os.environ.get(Environment.SPOOL_URI) or None,
        artifacts=artifacts,
    )


def database_of(registry_uri: str, home: Home) -> str:
    """
    The database behind MLflow: the registry itself if it is one, or that of this project's stack.

    :raises ConfigurationError: The registry is a server whose database is not known. Not retried.
    """
    if not registry_uri.startswith("http"):
        return registry_uri
    if home.mlflow_database.exists():
        return f"sqlite:///{home.mlflow_database}"
    raise ConfigurationError(
        "The registry is an MLflow server; its REST API can't keep the run IDs that the ledger names. Say which "
        "database it runs on: --registry-database postgresql://user:password@host/mlflow (its --backend-store-uri), or "
        "set MLFLOW_BACKEND_STORE_URI to it."
    )

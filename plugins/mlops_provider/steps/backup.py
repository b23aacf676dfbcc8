"""
Everything in one folder, and from there into an empty place.

The order keeps the parts consistent while others write: segments first (a table knows which of them it took), then the
ledger (what it names is there already), then tables, reports and the registry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlops_provider.core.evidence import Record, break_at
from mlops_provider.core.names import REPORTS_FOLDER
from mlops_provider.exceptions import ConfigurationError, EvidenceError
from mlops_provider.stores import mlflow_artifacts, mlflow_database
from mlops_provider.stores.archive import Archive, Manifest
from mlops_provider.stores.trees import Tree

if TYPE_CHECKING:
    from mlops_provider.stores.suite import Stores

log = logging.getLogger(__name__)

LEDGER, REGISTRY = "ledger.jsonl", "registry.jsonl"
TABLES, REPORTS, SPOOL, ARTIFACTS = "tables", "reports", "spool", "artifacts"
_LOG, _HINT = "_delta_log", "_last_checkpoint"
_LOCK = "lock"
"""File of a replica's spool that only says whether it lives."""


@dataclass(frozen=True, slots=True)
class Places:
    """
    What a backup is made of, and what a restore fills.

    :param stores: Ledger, tables and reports; the registry for files behind an MLflow server.
    :param registry_database: SQLAlchemy URL of the database behind MLflow.
    :param spool: Folder of the servers' prediction segments; None if there is none.
    :param artifacts: Restore: where files of MLflow go that were in a folder; None beside an SQLite database, else
        where they were.
    """

    stores: Stores
    registry_database: str
    spool: Path | None = None
    artifacts: str | None = None


def backup(places: Places, folder: Path) -> Manifest:
    """
    Copy everything into a new folder. Others may go on working; what they add meanwhile is in the next backup.

    :param folder: Where to; empty, or not there yet.
    :raises ConfigurationError: *folder* holds something, or a place can't be read. Not retried.
    :raises EvidenceError: The chain of the ledger breaks: a backup of it would be none. Not retried.
    :raises StoreUnavailableError: A store is away. Retried.
    """
    stores, archive = places.stores, Archive(folder)
    archive.begin()
    if places.spool:
        _add_tree(archive, SPOOL, Tree(str(places.spool)), lambda name: PurePosixPath(name).name != _LOCK)
    head: list[Record] = []
    count = archive.add_lines(LEDGER, (record.as_json() for record in _whole(stores.ledger.everything(), head)))
    log.info("ledger: %s records", count)
    _add_tables(archive, stores.tables.tree)
    _add_tree(archive, REPORTS, stores.reports.tree)
    rows = archive.add_lines(REGISTRY, mlflow_database.dumped(places.registry_database))
    locations = mlflow_database.locations(archive.lines(REGISTRY))
    for number, location in enumerate(locations):
        files = mlflow_artifacts.Artifacts(location, stores.registry.tracking_uri)
        _add_tree(archive, f"{ARTIFACTS}/{number}", files)
    log.info("registry: %s rows, files of %s experiments", rows, len(locations))
    return archive.finish(
        package=version_of("airflow-provider-mlops"),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        about={
            "records": count,
            "head": head[-1].digest if head else None,
            "tables_root": stores.tables.root,
            "artifacts": locations,
        },
    )


def verify(folder: Path) -> Manifest:
    """
    See that a backup is whole: every file as it was written, none more, and the chain of its ledger holds.

    :raises ConfigurationError: It is no backup, or one that was cut off. Not retried.
    :raises EvidenceError: It is not whole. Not retried.
    """
    archive = Archive(folder)
    manifest = archive.opened()
    head: list[Record] = []
    for _ in _whole(map(Record.from_json, archive.lines(LEDGER)), head):
        pass
    if (head[-1].digest if head else None) != manifest.about["head"]:
        raise EvidenceError(f"The ledger in {folder} ends with another record than its manifest says.")
    return manifest


def restore(places: Places, folder: Path) -> Manifest:
    """
    Fill an empty place with a backup, once all of it was found whole.

    Run IDs, version numbers, record IDs and table versions stay as they were; where a root is another one than before,
    what names the old one is found at the new one.

    :raises ConfigurationError: A place is not empty, or the backup is none. Not retried.
    :raises EvidenceError: The backup is not whole. Not retried.
    :raises StoreUnavailableError: A store is away. Retried.
    """
    manifest = verify(folder)
    log.info("the backup of %s is whole: %s files", manifest.made_at, len(manifest.files))
    _require_empty(places)
    stores, archive = places.stores, Archive(folder)
    archive.entries = dict(manifest.files)
    _put_back(archive, TABLES, stores.tables.tree)
    _note_moves(archive, stores, str(manifest.about["tables_root"]))
    _put_back(archive, REPORTS, stores.reports.tree)
    if places.spool:
        _put_back(archive, SPOOL, Tree(str(places.spool)))
    elif archive.below(SPOOL):
        raise ConfigurationError("The backup holds prediction segments: set MLOPS_SPOOL_DIR to say where they go.")

    moves = _artifact_moves(places, manifest.about["artifacts"])
    for number, location in enumerate(manifest.about["artifacts"]):
        there = mlflow_artifacts.Artifacts(moves.get(location, location), stores.registry.tracking_uri)
        _put_back(archive, f"{ARTIFACTS}/{number}", there)
    rows = mlflow_database.restore(places.registry_database, archive.lines(REGISTRY), lambda old: _moved(moves, old))
    log.info("registry: %s rows", rows)
    # Last: a place without records decides nothing, so a restore that was cut off can't be mistaken for a whole one.
    records = stores.ledger.restore(map(Record.from_json, archive.lines(LEDGER)))
    log.info("ledger: %s records", records)
    return manifest


def _whole(records: Iterable[Record], head: list[Record]) -> Iterator[Record]:
    """Pass records on, the newest one also in *head*; stop where the chain does."""
    for record in records:
        if reason := break_at(record, head[0] if head else None):
            raise EvidenceError(f"The chain of the ledger breaks at record {record.seq}: {reason}.")
        head[:] = [record]
        yield record


def _require_empty(places: Places) -> None:
    stores = places.stores
    occupied = [
        (stores.ledger.head() is not None, "the ledger (MLOPS_LEDGER_URL) has records"),
        (bool(stores.tables.tree.names()), f"{stores.tables.root} (MLOPS_TABLES_URI) has files"),
        (bool(stores.reports.tree.names()), f"{stores.reports.root} (MLOPS_REPORTS_URI) has files"),
        (places.spool is not None and bool(Tree(str(places.spool)).names()), "MLOPS_SPOOL_DIR has files"),
        (not mlflow_database.is_empty(places.registry_database), "MLflow's database has runs or models"),
    ]
    if found := [words for full, words in occupied if full]:
        raise ConfigurationError(
            f"Nothing was restored: {'; '.join(found)}. A backup goes into an empty place; name new addresses."
        )


def _add_tree(archive: Archive, folder: str, tree: Tree, wanted: Callable[[str], bool] = lambda name: True) -> None:
    names = [name for name in tree.names() if wanted(name)]
    for name in names:
        archive.add(f"{folder}/{name}", tree.pieces(name))
    log.info("%s: %s files of %s", folder, len(names), tree.root)


def _add_tables(archive: Archive, tree: Tree) -> None:
    """Logs first, each begun by its hint: what a commit names was written before it and is never removed."""

    def first(names: Iterable[str]) -> list[str]:
        own = (name for name in names if not name.startswith(f"{REPORTS_FOLDER}/"))
        return sorted(own, key=lambda name: (not name.endswith(_HINT), name))

    logs = [name for name in first(tree.names()) if f"/{_LOG}/" in name]
    for name in logs:
        archive.add(f"{TABLES}/{name}", tree.pieces(name))
    data = [name for name in first(tree.names()) if f"/{_LOG}/" not in name]
    for name in data:
        archive.add(f"{TABLES}/{name}", tree.pieces(name))
    log.info("tables: %s files of %s", len(logs) + len(data), tree.root)


def _put_back(archive: Archive, folder: str, tree: Tree) -> None:
    names = archive.below(folder)
    for name in names:
        tree.write(name, archive.tree.pieces(f"{folder}/{name}"))
    log.info("%s: %s files to %s", folder, len(names), tree.root)


def _note_moves(archive: Archive, stores: Stores, before: str) -> None:
    """Records name tables by their full address: let each know the one it had."""
    if before == stores.tables.root:
        return
    for table in sorted({name.partition(f"/{_LOG}/")[0] for name in archive.below(TABLES) if f"/{_LOG}/" in name}):
        stores.tables.note_moved(f"{stores.tables.root}/{table}", f"{before}/{table}")


def _artifact_moves(places: Places, locations: Iterable[str]) -> dict[str, str]:
    """New address of each experiment's files that were in a folder; those behind a server or on S3 keep theirs."""
    root = places.artifacts or mlflow_artifacts.folder_beside(places.registry_database)
    if root is None:
        return {}
    folders = [location for location in locations if mlflow_artifacts.is_folder(location)]
    return {location: f"{root.rstrip('/')}/{PurePosixPath(location).name}" for location in folders}


def _moved(moves: Mapping[str, str], recorded: str) -> str:
    for before, after in moves.items():
        if recorded == before or recorded.startswith(f"{before}/"):
            return after + recorded[len(before) :]
    return recorded

"""
Everything in one folder, and from there into an empty place.

The order keeps the parts consistent while others write: segments first (a table knows which of them it took), then
ledger and registry as they agree, then what both name: tables, reports and artifacts. The numbers that segments had
come last, so that no restored server counts from a number that a table has already.
"""

from __future__ import annotations

import getpass
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlops_provider.core.evidence import Record, break_at, following
from mlops_provider.core.names import REPORTS_FOLDER, Environment, Kind
from mlops_provider.exceptions import ConfigurationError, EvidenceError, FileGoneError, StoreUnavailableError
from mlops_provider.stores import delta, mlflow_artifacts, mlflow_database
from mlops_provider.stores.archive import Archive, Manifest
from mlops_provider.stores.trees import Tree

if TYPE_CHECKING:
    from mlops_provider.stores.suite import Stores

log = logging.getLogger(__name__)

LEDGER, REGISTRY = "ledger.jsonl", "registry.jsonl"
TABLES, REPORTS, ARTIFACTS = "tables", "reports", "artifacts"
SPOOL, SHIPPED = "spool", "shipped"
_LOG, _HINT = "_delta_log", "_last_checkpoint"
_OF_A_LOG = re.compile(r"\d{20}\.(json|crc|checkpoint.*\.parquet)")
"""Files of a transaction log; what else lies there is on its way to become one."""
_SEGMENT = re.compile(r"(.*)/(\d+)\.(?:open|sealed)")
_SERIES = ("identity", "sequence")
"""Files of a replica's spool that say which segments are its own, and how many there were."""
_SPOOL_OF = {SPOOL: Environment.SPOOL_DIR, SHIPPED: Environment.SPOOL_URI}
_AGREED = (Kind.TRAINING, Kind.REGISTRATION, Kind.TRAFFIC, Kind.PROMOTION, Kind.ROLLBACK)
"""Kinds whose records the registry shows, too."""
_TRIES = 20
"""Looks at what others change meanwhile."""


@dataclass(frozen=True, slots=True)
class Places:
    """
    What a backup is made of, and what a restore fills.

    :param stores: Ledger, tables and reports; the registry for files behind an MLflow server.
    :param registry_database: SQLAlchemy URL of the database behind MLflow.
    :param spool: Folder of the servers' prediction segments; None if there is none.
    :param shipped: Address on S3 to which they are moved; None if they stay in their folder.
    :param artifacts: Restore: where files of MLflow go that were in a folder; None beside an SQLite database, else
        where they were.
    """

    stores: Stores
    registry_database: str
    spool: Path | None = None
    shipped: str | None = None
    artifacts: str | None = None

    def spools(self) -> Mapping[str, Tree]:
        """Where segments wait, by their folder in a backup; the one they are moved to last."""
        trees = {SPOOL: Tree(str(self.spool))} if self.spool else {}
        return trees | ({SHIPPED: Tree(self.shipped, self.stores.spool_s3())} if self.shipped else {})


def backup(places: Places, folder: Path) -> Manifest:
    """
    Copy everything into a new folder. Others may go on working; what they add meanwhile is in the next backup.

    Ledger and tables may have an older layout: they are copied as they are, for an upgrade to follow. Files that wait
    for a commit, or that a try left behind which lost, are left out.

    :param folder: Where to; empty, or not there yet.
    :raises ConfigurationError: *folder* holds something, or a place can't be read. Not retried.
    :raises EvidenceError: The chain of the ledger breaks, or a table has lost files: a backup would be none. Not
        retried.
    :raises StoreUnavailableError: A store is away, or somebody clears it away meanwhile. Retried.
    """
    stores, archive = places.stores, Archive(folder)
    archive.begin()
    spools = places.spools()
    _add_segments(archive, spools)
    count, head = _add_ledger_and_registry(archive, places)
    _add_tables(archive, stores.tables.tree)
    _add_tree(archive, REPORTS, stores.reports.tree)
    locations = mlflow_database.locations(archive.lines(REGISTRY))
    for number, location in enumerate(locations):
        files = mlflow_artifacts.Artifacts(location, stores.registry.tracking_uri)
        _add_tree(archive, f"{ARTIFACTS}/{number}", files)
    if spool := spools.get(SPOOL):
        for name in (name for name in spool.names() if PurePosixPath(name).name in _SERIES):
            archive.add(f"{SPOOL}/{name}", spool.pieces(name))
    return archive.finish(
        package=version_of("airflow-provider-mlops"),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        about={
            "records": count,
            "head": head.digest if head else None,
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


def restore(places: Places, folder: Path, *, as_copy: bool = False) -> Manifest:
    """
    Fill an empty place with a backup, once all of it was found whole.

    Run IDs, version numbers, record IDs and table versions stay as they were; where a root is another one than before,
    what names the old one is found at the new one. Tables keep the layout they had.

    :param as_copy: The place that was backed up goes on: make the ledger another one, by one more record, and let it
        take the restored tables over. Else the place is the one that was backed up.
    :raises ConfigurationError: A place is not empty, or the backup is none. Not retried.
    :raises EvidenceError: The backup is not whole. Not retried.
    :raises StoreUnavailableError: A store is away. Retried.
    """
    manifest = verify(folder)
    log.info("the backup of %s is whole: %s files", manifest.made_at, len(manifest.files))
    stores, archive = places.stores, Archive(folder)
    archive.entries = dict(manifest.files)
    spools = places.spools()
    _require_spools(archive, spools)
    _require_empty(places)
    copy = [_copy_record(archive, manifest)] if as_copy else []
    _put_back(archive, TABLES, stores.tables.tree)
    _note_moves(archive, stores, str(manifest.about["tables_root"]), copy)
    _put_back(archive, REPORTS, stores.reports.tree)
    for name, spool in spools.items():
        _put_back(archive, name, spool)
    moves = _artifact_moves(places, manifest.about["artifacts"])
    for number, location in enumerate(manifest.about["artifacts"]):
        there = mlflow_artifacts.Artifacts(moves.get(location, location), stores.registry.tracking_uri)
        _put_back(archive, f"{ARTIFACTS}/{number}", there)
    rows = mlflow_database.restore(places.registry_database, archive.lines(REGISTRY), lambda old: _moved(moves, old))
    log.info("registry: %s rows", rows)
    # Last: a place without records decides nothing, so a restore that was cut off can't be mistaken for a whole one.
    records = stores.ledger.restore(chain(map(Record.from_json, archive.lines(LEDGER)), copy))
    log.info("ledger: %s records", records)
    return manifest


def _whole(records: Iterable[Record], head: list[Record]) -> Iterator[Record]:
    """Pass records on, the newest one also in *head*; stop where the chain does."""
    for record in records:
        if reason := break_at(record, head[0] if head else None):
            raise EvidenceError(f"The chain of the ledger breaks at record {record.seq}: {reason}.")
        head[:] = [record]
        yield record


def _require_spools(archive: Archive, spools: Mapping[str, Tree]) -> None:
    for name, variable in _SPOOL_OF.items():
        if name not in spools and (kept := archive.below(name)):
            raise ConfigurationError(
                f"Nothing was restored: the backup holds {len(kept)} files of prediction segments. Set {variable} to "
                "say where they go."
            )


def _require_empty(places: Places) -> None:
    stores = places.stores
    occupied = [
        (stores.ledger.head() is not None, "the ledger (MLOPS_LEDGER_URL) has records"),
        (bool(stores.tables.tree.names()), f"{stores.tables.root} (MLOPS_TABLES_URI) has files"),
        (bool(stores.reports.tree.names()), f"{stores.reports.root} (MLOPS_REPORTS_URI) has files"),
        *((bool(tree.names()), f"{tree.root} ({_SPOOL_OF[name]}) has files") for name, tree in places.spools().items()),
        (not mlflow_database.is_empty(places.registry_database), "MLflow's database has runs or models"),
    ]
    if found := [words for full, words in occupied if full]:
        raise ConfigurationError(
            f"Nothing was restored: {'; '.join(found)}. A backup goes into an empty place; name new addresses."
        )


def _add_tree(archive: Archive, folder: str, tree: Tree) -> None:
    names = tree.names()
    for name in names:
        archive.add(f"{folder}/{name}", tree.pieces(name))
    log.info("%s: %s files of %s", folder, len(names), tree.root)


def _add_segments(archive: Archive, spools: Mapping[str, Tree]) -> None:
    """
    Copy the segments that there are now, each from where it lies when its turn comes.

    One that is gone was sealed or moved, and is found again, or was delivered, and is in the table. Those that begin
    later are left out: the last one may be copied while it is written, and nothing may follow its half.
    """
    newest: dict[str, int] = {}
    for replica, number in _segments(spools):
        newest[replica] = max(number, newest.get(replica, 0))
    copied: set[tuple[str, int]] = set()
    if not newest:
        return
    for _ in range(_TRIES):
        left = {
            (replica, number): file
            for (replica, number), file in _segments(spools).items()
            if number <= newest.get(replica, 0) and (replica, number) not in copied
        }
        if not left:
            log.info("%s prediction segments of %s", len(copied), " and ".join(tree.root for tree in spools.values()))
            return
        for segment, (folder, name) in left.items():
            try:
                archive.add(f"{folder}/{name}", spools[folder].pieces(name))
            except FileGoneError:
                continue
            copied.add(segment)
    raise StoreUnavailableError(
        f"The prediction segments were never the same in {_TRIES} looks. Is their disk slow? Make the backup again."
    )


def _segments(spools: Mapping[str, Tree]) -> dict[tuple[str, int], tuple[str, str]]:
    """
    Folder and name of each segment, by its replica and number.

    Looked for last where they are moved to, so that none is missed on its way.
    """
    found: dict[tuple[str, int], tuple[str, str]] = {}
    for folder, tree in spools.items():
        replicas: dict[str, str] = {}
        for name in tree.names():
            if match := _SEGMENT.fullmatch(name):
                replica, number = match[1], int(match[2])
                if folder == SPOOL:
                    replica = replicas.get(replica) or replicas.setdefault(replica, _replica(tree, replica))
                found[replica, number] = folder, name
    return found


def _replica(tree: Tree, folder: str) -> str:
    """Name of the replica that a folder of segments belongs to, as it is called on S3."""
    try:
        return f"{folder}-{b''.join(tree.pieces(f'{folder}/identity')).decode()}"
    except FileGoneError:  # nobody has named it yet
        return folder


def _add_ledger_and_registry(archive: Archive, places: Places) -> tuple[int, Record | None]:
    """Copy both as they agree: again if a version was registered, or traffic moved, in between."""
    ledger = places.stores.ledger
    for _ in range(_TRIES):
        head: list[Record] = []
        count = archive.add_lines(LEDGER, (record.as_json() for record in _whole(ledger.everything(), head)))
        rows = archive.add_lines(REGISTRY, mlflow_database.dumped(places.registry_database))
        newest = head[0] if head else None
        if not any(record.kind in _AGREED for record in ledger.everything(after=newest.seq if newest else 0)):
            log.info("ledger: %s records, registry: %s rows", count, rows)
            return count, newest
    raise StoreUnavailableError(
        f"Versions or traffic changed during each of {_TRIES} copies of ledger and registry. Make the backup later."
    )


def _add_tables(archive: Archive, tree: Tree) -> None:
    """Logs first, each begun by its hint: what a commit names was written before it and is never removed."""

    def own() -> list[str]:
        return [name for name in tree.names() if not name.startswith(f"{REPORTS_FOLDER}/")]

    def of_logs(wanted: str | re.Pattern[str]) -> Iterator[str]:
        for name in own():
            folder, _, file = name.rpartition("/")
            if folder.endswith(f"/{_LOG}") and re.fullmatch(wanted, file):
                yield name

    logs = 0
    for wanted in (_HINT, _OF_A_LOG):  # listed anew: the hint may name a checkpoint that has just been written
        for name in of_logs(wanted):
            archive.add(f"{TABLES}/{name}", tree.pieces(name))
            logs += 1
    named = _named_by_tables(archive)
    there, data = own(), 0
    _require_there(archive, named, set(there))
    for name in there:
        table = next((table for table in named if name.startswith(f"{table}/")), None)
        if table is None or name.removeprefix(f"{table}/") not in named[table]:
            continue  # it waits for a commit, lost to another try, or is newer than this backup
        try:
            archive.add(f"{TABLES}/{name}", tree.pieces(name))
        except FileGoneError as error:
            raise FileGoneError(
                f"{tree.root}/{name} belongs to a version of its table and was removed while it was copied: somebody "
                "vacuums or clears the tables. Make the backup again when that is done."
            ) from error
        data += 1
    log.info("tables: %s files of %s", logs + data, tree.root)


def _named_by_tables(archive: Archive) -> Mapping[str, set[str]]:
    """For each table of the backup, by its path, the data files that any of its versions names."""
    tables = {name.partition(f"/{_LOG}/")[0] for name in archive.below(TABLES)}
    return {table: delta.named_files(archive.folder / TABLES / table / _LOG) for table in sorted(tables)}


def _require_there(archive: Archive, named: Mapping[str, set[str]], there: set[str]) -> None:
    """Refuse a table whose newest version has lost files; say which have lost those of older versions."""
    for table, files in named.items():
        gone = sorted(file for file in files if f"{table}/{file}" not in there)
        if not gone:
            continue
        newest = delta.newest_files(str(archive.folder / TABLES / table))
        if broken := [file for file in gone if file in newest]:
            raise EvidenceError(
                f"Table {table} has lost {len(broken)} of the {len(newest)} files of its newest version, {broken[0]} "
                "for one: it can't be read, and a backup of it would be none. Restore it from an earlier backup, or "
                "ingest what is missing again."
            )
        log.warning("Table %s has lost %s files of older versions: they are in no backup either.", table, len(gone))


def _put_back(archive: Archive, folder: str, tree: Tree) -> None:
    names = archive.below(folder)
    for name in names:
        tree.write(name, archive.tree.pieces(f"{folder}/{name}"))
    log.info("%s: %s files to %s", folder, len(names), tree.root)


def _copy_record(archive: Archive, manifest: Manifest) -> Record:
    """Make the record by which a copy's ledger differs from the one it was copied from."""
    first = head = None
    for line in archive.lines(LEDGER):
        head = Record.from_json(line)
        first = first or head
        if head.kind == Kind.COPY:
            first = head
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return following(
        head,
        record_id=uuid.uuid4().hex,
        kind=str(Kind.COPY),
        model="",
        key=None,
        payload={"from": first.digest if first else None, "made_at": manifest.made_at},
        actor=getpass.getuser(),
        as_of=None,
        recorded_at=now,
    )


def _note_moves(archive: Archive, stores: Stores, before: str, copy: Sequence[Record]) -> None:
    """Records name tables by their full address: let each know the one it had, and whose it is if this is a copy."""
    if before == stores.tables.root and not copy:
        return
    owner = copy[0].digest if copy else None
    for table in sorted({name.partition(f"/{_LOG}/")[0] for name in archive.below(TABLES) if f"/{_LOG}/" in name}):
        stores.tables.note_moved(f"{stores.tables.root}/{table}", f"{before}/{table}", owner)


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

"""
Versioned tables: Delta Lake, in a folder or on S3, without Spark.

Exactly once, also when an orphaned first try still writes beside the second: each partition, and each application
that appends, has a number in the table's own transaction log. A writer notes it before the source is read and commits
it plus one; Delta refuses the second of two commits under one number. So the try that began first and ends last loses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pandas as pd
from deltalake import DeltaTable, Transaction

from mlops_provider.core.evidence import digest_of
from mlops_provider.core.names import PARTITION
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import ConcurrentWriteError, ConfigurationError, SourceError
from mlops_provider.stores import content, delta, frames, layouts
from mlops_provider.stores.rows import Rows
from mlops_provider.stores.s3 import S3, is_s3
from mlops_provider.stores.trees import Tree

_PARTITION = "mlops.partition"
_CONTENT = "mlops.content"
_ORIGIN = "mlops.origin"
_LEDGER = "mlops.ledger"

_TAKE_OVER = "MLOPS_TABLES_TAKE_OVER"

ATTEMPTS = 20
"""Tries of one commit while writers of other partitions come in between."""


@dataclass(frozen=True, slots=True)
class Written:
    """
    What a write left behind.

    :param ref: The version that holds the content; an earlier one if it was there already.
    :param changed: False if the partition held the same content before.
    :param rows: Rows of the partition.
    :param content: SHA-256 of the content, hex.
    """

    ref: TableRef
    changed: bool
    rows: int
    content: str


class Tables:
    """
    Tables below one root.

    :param root: Folder, ``file://`` or ``s3://`` address.
    :param s3: Access to S3, if the root is there; by default with what the environment holds.
    :param ledger: Gives the identity of the ledger that knows what is written here; it is kept with each commit, and a
        table whose newest commit names another ledger is not written to: two environments would take each other's
        months for their own.
    """

    def __init__(self, root: str, s3: S3 | None = None, ledger: Callable[[], str | None] = lambda: None) -> None:
        self.root = _plain(root)
        self.ledger = ledger
        self.s3 = (s3 or S3()) if is_s3(self.root) else None

    @property
    def storage_options(self) -> dict[str, str]:
        """Deltalake's options, with credentials as they are now."""
        return self.s3.storage_options() if self.s3 else {}

    def uri(self, model: str, table: str) -> str:
        """Full address of a model's table."""
        return f"{self.root}/{model}/{table}"

    def replace_partition(self, uri: str, partition: str) -> PartitionWriter:
        """
        Begin to replace a partition. Call it before the source is read: what others commit from now on wins.

        :raises StoreUnavailableError: The store cannot be reached. Retried.
        """
        return PartitionWriter(self, uri, partition, self.replaced(uri, partition))

    def replaced(self, uri: str, partition: str) -> int:
        """Times a partition was replaced."""
        return self.appended(uri, _application(partition))

    def append_once(
        self,
        uri: str,
        frame: pd.DataFrame,
        *,
        app_id: str,
        sequence: int,
        after: int | None = None,
        about: Mapping[str, str] | None = None,
    ) -> bool:
        """
        Append rows unless *app_id* has already appended *sequence* or a later one.

        Columns that the rows lack become null, new columns are added. A new table is partitioned if the rows have a
        ``partition`` column.

        :param sequence: Number of this batch within *app_id*, rising from 1.
        :param after: The sequence before this batch, when a batch may span several; see :meth:`appended`.
        :param about: Metadata of the commit; see :meth:`commits_after`.
        :return: False if the rows were there already.
        :raises ConcurrentWriteError: *app_id* is no longer at *after*. Retried.
        :raises DataRejectedError: A column has another type than in the table. Not retried.
        :raises StoreUnavailableError: Disk full, or the store cannot be reached. Retried.
        """
        for _ in range(ATTEMPTS):
            with self.explained(uri):
                handle = delta.existing(uri, self.storage_options) or delta.created(
                    uri, self.storage_options, frames.fitted(frame, None, where=uri).schema
                )
                done = handle.transaction_version(app_id) or 0
                if done >= sequence:
                    return False
                if after is not None and done != after:
                    raise ConcurrentWriteError(
                        f"{app_id!r} stands at {done} in {uri}, not at {after}: another delivery came in between. "
                        "Read what is left and deliver again."
                    )
                owner = self.owned(handle)
                rows = frames.fitted(frame, delta.schema(handle), where=uri, missing_as_null=True)
                transaction = Transaction(app_id, sequence)
                if delta.committed(handle, rows, transaction, partition=None, about={**owner, **(about or {})}):
                    return True
        raise too_busy(uri)

    def appended(self, uri: str, app_id: str) -> int:
        """Last sequence that *app_id* has appended; 0 if none."""
        handle = self._existing(uri)
        return (handle.transaction_version(app_id) or 0) if handle else 0

    def commits_after(self, uri: str, version: int) -> list[Mapping[str, Any]]:
        """What the commits after *version* say of themselves: ``version`` and their metadata, oldest first."""
        handle = self._existing(uri)
        if handle is None or handle.version() <= version:
            return []
        with self.explained(uri):
            found = delta.commits(handle, handle.version() - version)
        return [commit for commit in reversed(found) if commit["version"] > version]

    def read(
        self,
        source: TableRef | str,
        *,
        columns: Sequence[str] | None = None,
        partitions: Sequence[str] | None = None,
        equal: tuple[str, str] | None = None,
        limit: int | None = None,
        since: tuple[str, datetime] | None = None,
        among: Mapping[str, Collection[str]] | None = None,
    ) -> pd.DataFrame:
        """
        Read rows, partitions in rising order, only the columns asked for.

        :param source: A reference (that version; its partition, unless *partitions* are named), or a table's address
            (its newest version).
        :param columns: Columns to read; all but ``partition`` by default.
        :param partitions: Partitions to read; one that does not exist gives no rows.
        :param equal: Column and text: read only the rows that hold it there.
        :param limit: Of a table without partitions: read no more rows than these.
        :param since: Column and moment: read only the rows that hold it or a later one there.
        :param among: Columns and texts: read only the rows that hold one of these texts in one of these columns.
        :return: A frame (n_rows, n_columns) with a fresh index.
        :raises SourceError: No such table, version or column. Not retried.
        :raises StoreUnavailableError: The store cannot be reached. Retried.
        """
        reference = source if isinstance(source, TableRef) else TableRef(source, -1)
        uri, version = self._address(reference.table), reference.version
        if partitions is None and reference.partition is not None:
            partitions = [reference.partition]
        with self.explained(uri):
            handle = delta.opened(uri, self.storage_options, version if version >= 0 else None)
            there = delta.schema(handle).names
            wanted = list(columns) if columns is not None else [name for name in there if name != PARTITION]
            if unknown := [name for name in wanted if name not in there]:
                raise SourceError(f"{uri}, version {handle.version()}, has no column {frames.named(unknown)}.")
            return frames.as_frame(
                delta.scanned(handle, wanted, partitions, equal=equal, limit=limit, since=since, among=among)
            )

    def rows(self, source: TableRef) -> Rows:
        """
        Open the rows of one partition at a version, to be read a stretch at a time, in the order they were written.

        :param source: Names a partition; one that does not exist has no rows.
        :raises SourceError: No such table or version. Not retried.
        :raises StoreUnavailableError: The store cannot be reached. Retried.
        """
        uri, options = self._address(source.table), self.storage_options
        with self.explained(uri):
            handle = delta.opened(uri, options, source.version)
            columns = frames.without_partition(delta.schema(handle))
            files = delta.files(handle, [str(source.partition)])
            return Rows(columns, delta.fragments(files, delta.filesystem(uri, options)), uri=uri)

    @property
    def tree(self) -> Tree:
        """All files below the root."""
        return Tree(self.root, self.s3)

    def all(self) -> list[str]:
        """Addresses of all tables of all models, in their order."""
        ends = f"/_delta_log/{0:020}.json"
        return [f"{self.root}/{name.removesuffix(ends)}" for name in self.tree.names() if name.endswith(ends)]

    def pending_upgrades(self, uri: str) -> list[tuple[str, Callable[[], None]]]:
        """
        What a table still needs to have this package's layout: in words, and what does it.

        :raises ConfigurationError: A newer package made it. Not retried.
        """
        options = self.storage_options
        with self.explained(uri):
            handle = DeltaTable(uri, storage_options=options or None)
            steps = layouts.pending(uri, handle)

        def apply(step: layouts.Step) -> None:
            with self.explained(uri):
                step.apply(handle)
                handle.alter.set_table_description(layouts.mark(layouts.STEPS.index(step) + 1))

        return [(step.does, partial(apply, step)) for step in steps]

    def note_moved(self, uri: str, former: str, owner: str | None = None) -> None:
        """
        Let references that name a table by its *former* address find it where it is now. It may have an older layout.

        :param owner: Identity of the ledger that takes it over from the one that wrote it; None if it stays the same.
        """
        with self.explained(uri):
            handle = DeltaTable(uri, storage_options=self.storage_options or None)
            delta.note_moved(handle, [former] if former != uri else [], {_LEDGER: owner} if owner else {})

    def _address(self, recorded: str) -> str:
        """Where a table is: at the recorded address, unless it was restored from there to here."""
        if recorded.startswith(f"{self.root}/"):
            return recorded
        here = f"{self.root}/{'/'.join(recorded.split('/')[-2:])}"
        handle = self._existing(here)
        return here if handle and recorded in delta.former_addresses(handle) else recorded

    def exists(self, uri: str) -> bool:
        """Whether there is a table at this address."""
        return self._existing(uri) is not None

    def version(self, uri: str) -> int | None:
        """Newest version of the table; None if there is no table."""
        handle = self._existing(uri)
        return handle.version() if handle else None

    def partitions(self, uri: str) -> list[str]:
        """Partitions that hold rows, in rising order."""
        handle = self._existing(uri)
        return delta.partitions(handle) if handle else []

    def fingerprint(self, source: TableRef, partitions: Sequence[str] | None = None) -> str:
        """
        SHA-256 over the files that hold the rows of a reference: equal as long as nobody replaced or restored them.

        :param partitions: Partitions that count; by default the one of the reference.
        :raises SourceError: No such table or version. Not retried.
        """
        wanted = partitions if partitions is not None else [source.partition or ""]
        uri = self._address(source.table)
        with self.explained(uri):
            handle = delta.opened(uri, self.storage_options, source.version)
            return digest_of(delta.files(handle, wanted))

    def content(self, uri: str, partition: str) -> str | None:
        """Hash of what was last written to a partition; None if nothing was, or the table was restored since."""
        handle = self._existing(uri)
        last = delta.last_commit(handle, _PARTITION, partition) if handle else None
        return str(last[_CONTENT]) if last else None

    def owned(self, handle: DeltaTable) -> dict[str, str]:
        """
        What a commit says of its ledger.

        :raises ConfigurationError: The newest commit is another environment's. Not retried.
        """
        ours, theirs = self.ledger(), delta.newest(handle, _LEDGER)
        if os.environ.get(_TAKE_OVER) == "1":
            return {_LEDGER: ours or ""}  # a ledger that is still empty has no name to leave, but takes theirs away
        if theirs and theirs != ours:
            raise ConfigurationError(
                f"{handle.table_uri} belongs to another environment: its newest commit is recorded in the ledger that "
                f"begins with record {theirs}, ours {f'begins with {ours}' if ours else 'is empty'}. Nothing was "
                "written. Give each environment a root of its own (MLOPS_TABLES_URI, or the host of its tables "
                f"connection). If this ledger is to take the tables over, set {_TAKE_OVER}=1 for one run."
            )
        return {_LEDGER: ours} if ours else {}

    def explained(self, uri: str) -> AbstractContextManager[None]:
        """Say in words what went wrong with a table."""
        return delta.explained(uri, self.s3)

    def _existing(self, uri: str) -> DeltaTable | None:
        with self.explained(uri):
            return delta.existing(uri, self.storage_options)


@dataclass(frozen=True, slots=True)
class PartitionWriter:
    """
    Replaces one partition, if nobody else did since the writer was made.

    :param sequence: Times the partition had been replaced when the writer was made.
    """

    tables: Tables
    uri: str
    partition: str
    sequence: int

    def write(self, frame: pd.DataFrame, *, origin_key: str, missing_as_null: bool = False) -> Written:
        """
        Replace the partition, unless it holds the same content already.

        :param frame: All rows of the partition (n_rows, n_columns); none is allowed.
        :param origin_key: Who writes, for the table's history.
        :param missing_as_null: Fill columns that the rows lack (say, a feature that was retired); else they are
            refused.
        :raises ConcurrentWriteError: Somebody else wrote other content meanwhile. Retried.
        :raises DataRejectedError: Columns are missing or of another type than before. Not retried.
        :raises StoreUnavailableError: Disk full, or the store cannot be reached. Retried.
        """
        where = f"{self.uri}, partition {self.partition}"
        for _ in range(ATTEMPTS):
            with self.tables.explained(self.uri):
                options = self.tables.storage_options
                handle = delta.existing(self.uri, options) or delta.created(
                    self.uri, options, frames.fitted(frame, None, where=where, partition=self.partition).schema
                )
                owner = self.tables.owned(handle)
                rows = frames.fitted(
                    frame,
                    delta.schema(handle),
                    where=where,
                    partition=self.partition,
                    missing_as_null=missing_as_null,
                )
                commit = partial(delta.committed, handle, rows, partition=self.partition)
                written = self.replaced(
                    handle,
                    commit,
                    content=content.digest(rows.drop_columns([PARTITION])),
                    rows=rows.num_rows,
                    origin_key=origin_key,
                    owner=owner,
                )
                if written:
                    return written
        raise too_busy(self.uri)

    def replaced(
        self,
        handle: DeltaTable,
        commit: Callable[..., bool],
        *,
        content: str,
        rows: int,
        origin_key: str,
        owner: Mapping[str, str],
    ) -> Written | None:
        """
        Commit through *handle*, if the content is new and nobody else replaced the partition.

        :param commit: Takes ``transaction`` and ``about``; False if another commit came in between.
        :param owner: What the commit says of its ledger; see :meth:`Tables.owned`.
        :return: None if the table has to be looked at again.
        :raises ConcurrentWriteError: Somebody else wrote other content meanwhile. Retried.
        """
        last = delta.last_commit(handle, _PARTITION, self.partition)
        if last and last[_CONTENT] == content:
            return Written(self._ref(int(last["version"])), False, rows, content)
        if (handle.transaction_version(_application(self.partition)) or 0) != self.sequence:
            raise ConcurrentWriteError(
                f"Partition {self.partition} of {self.uri} was replaced with other content "
                f"(by {last[_ORIGIN] if last else 'another writer'}) after this try began; it wrote nothing."
            )
        transaction = Transaction(_application(self.partition), self.sequence + 1)
        about = {_PARTITION: self.partition, _CONTENT: content, _ORIGIN: origin_key, **owner}
        if not commit(transaction=transaction, about=about):
            return None
        # Of the two ways to commit, only one tells the handle its version.
        made = delta.last_commit(handle, _ORIGIN, origin_key)
        return Written(self._ref(int(made["version"]) if made else handle.version()), True, rows, content)

    def _ref(self, version: int) -> TableRef:
        return TableRef(self.uri, version, self.partition)


def _application(partition: str) -> str:
    """Name of a partition's own sequence in the table's transaction log."""
    return f"{_PARTITION}:{partition}"


def _plain(root: str) -> str:
    """One spelling per root, so that references to one table are equal: absolute, no ``file://``, no end slash."""
    parts = urlsplit(root)
    if parts.scheme in ("s3", "s3a"):
        return root.rstrip("/")
    if parts.scheme == "file":
        return str(Path(unquote(parts.path)))
    if "://" in root or not root:
        raise ConfigurationError(f"MLOPS_TABLES_URI must be a folder, file:// or s3://, got {parts.scheme or root!r}.")
    return str(Path(root).expanduser().absolute())


def too_busy(uri: str) -> ConcurrentWriteError:
    return ConcurrentWriteError(f"{uri}: other writers kept committing during {ATTEMPTS} tries of this write.")

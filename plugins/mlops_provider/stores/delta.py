"""The few things we ask of deltalake, with its errors in our words."""

from __future__ import annotations

import json
import operator
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction
from pyarrow import fs
from pyarrow.dataset import Expression, ParquetFileFormat, ParquetFileFragment, field, scalar

from mlops_provider.core.names import PARTITION
from mlops_provider.exceptions import SourceError, StoreUnavailableError
from mlops_provider.stores import layouts
from mlops_provider.stores.s3 import S3

if TYPE_CHECKING:
    from mlops_provider.core.chunks import Piece

Options = Mapping[str, str]

# Versions that models were trained on must stay readable: neither the log nor replaced files are dropped by age.
_CONFIGURATION: dict[str, str | None] = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}
_RECENT = 20
"""Commits to look at before the whole history is read."""

_RESTORED = "RESTORE"
"""Operation by which a person brings an earlier version back."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""deltalake colours its messages, also where nobody sees colours."""
_DISK_FULL = ("no space left", "quota exceeded", "file too large")
_AWAY = (
    "generic s3 error",
    "generic localfilesystem error",
    "could not create local directory",
    "error sending request",
    "permission denied",
)


def existing(uri: str, options: Options) -> DeltaTable | None:
    """Newest version of the table; None if there is none."""
    there = DeltaTable.is_deltatable(uri, storage_options=dict(options) or None)
    return opened(uri, options) if there else None


def opened(uri: str, options: Options, version: int | None = None) -> DeltaTable:
    """
    Open a table that must exist.

    :raises SourceError: No such table or version. Not retried.
    """
    try:
        handle = DeltaTable(uri, version=version, storage_options=dict(options) or None)
    except TableNotFoundError as error:
        raise SourceError(f"There is no table at {uri}: the step that writes it has not run yet.") from error
    except DeltaError as error:
        if "end version" not in str(error):
            raise
        raise SourceError(f"{uri} has no version {version}: was the table replaced by another one?") from error
    if version is None:
        layouts.require_current(uri, handle)
    return handle


def created(uri: str, options: Options, schema: pa.Schema) -> DeltaTable:
    """Make an empty table as version 0; whoever comes second gets the first one's."""
    # Without retries: deltalake would rebase a creation that comes second into another protocol commit.
    try:
        DeltaTable.create(
            uri,
            schema,
            mode="ignore",
            partition_by=[PARTITION] if PARTITION in schema.names else None,
            description=layouts.mark(),
            configuration=_CONFIGURATION,
            storage_options=dict(options) or None,
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except CommitFailedError as error:
        if _away(str(error)):
            raise
    return opened(uri, options)


def committed(
    handle: DeltaTable, rows: pa.Table, transaction: Transaction, *, partition: str | None, about: Mapping[str, str]
) -> bool:
    """
    Commit *rows* through *handle* under *transaction*: in place of *partition*, or appended if that is None.

    :return: False if another commit came in between, which may or may not be in the way: look again.
    """
    new_columns = set(rows.column_names) - set(schema(handle).names)
    merge: Literal["merge"] | None = "merge" if new_columns else None
    properties = CommitProperties(custom_metadata=dict(about), app_transactions=[transaction])
    try:
        if partition is None:
            write_deltalake(handle, rows, mode="append", schema_mode=merge, commit_properties=properties)
        else:
            write_deltalake(
                handle,
                rows,
                mode="overwrite",
                predicate=_is(partition),
                schema_mode=merge,
                commit_properties=properties,
            )
    except CommitFailedError as error:
        if _away(str(error)):
            raise
        return False
    return True


def _away(said: str) -> bool:
    """Whether it was the store that failed, and no other writer that was faster."""
    return any(words in said.lower() for words in _AWAY)


def committed_files(
    handle: DeltaTable,
    pieces: Sequence[Piece],
    columns: pa.Schema,
    transaction: Transaction,
    *,
    partition: str,
    about: Mapping[str, str],
) -> bool:
    """
    Commit files that lie beside the table's, in place of *partition*, under *transaction*.

    :param columns: Columns of the table from now on.
    :return: False if another commit came in between: look again.
    """
    now = int(time.time() * 1000)
    try:
        handle.create_write_transaction(
            [
                AddAction(
                    each.path, each.size, {PARTITION: partition}, now, True, json.dumps({"numRecords": each.rows})
                )
                for each in pieces
            ],
            "overwrite",
            columns,
            partition_by=[PARTITION],
            partition_filters=[(PARTITION, "=", partition)],
            commit_properties=CommitProperties(custom_metadata=dict(about), app_transactions=[transaction]),
        )
    except CommitFailedError as error:
        if _away(str(error)):
            raise
        return False
    return True


def filesystem(uri: str, options: Options) -> fs.FileSystem:
    """Files below a table's address, by paths relative to it."""
    if "://" in uri:
        return fs.PyFileSystem(DeltaStorageHandler(uri, dict(options) or None))
    Path(uri).mkdir(parents=True, exist_ok=True)
    return fs.SubTreeFileSystem(uri, fs.LocalFileSystem())


def files(handle: DeltaTable, wanted: Sequence[str]) -> list[str]:
    """Data files that make up the *wanted* partitions, in a stable order. A file never changes."""
    actions = pa.table(handle.get_add_actions(flatten=True))
    held = zip(actions["path"].to_pylist(), actions[f"partition.{PARTITION}"].to_pylist(), strict=True)
    return sorted(path for path, partition in held if partition in set(wanted))


def fragments(where: Sequence[str], within: fs.FileSystem) -> list[ParquetFileFragment]:
    """Parquet files as they can be read in parts."""
    kind = ParquetFileFormat()
    return [kind.make_fragment(path, within) for path in where]


def _is(partition: str) -> str:
    quoted = partition.replace("'", "''")
    return f"{PARTITION} = '{quoted}'"


def schema(handle: DeltaTable) -> pa.Schema:
    """Columns of the table as Arrow types."""
    return pa.schema(handle.schema().to_arrow())


_MOVED_FROM = "mlops.moved_from"
"""Table property: JSON list of the addresses at which the same table was before; records may name it by one of them."""


def former_addresses(handle: DeltaTable) -> list[str]:
    """Addresses that the table had before it was restored elsewhere."""
    return list(json.loads(handle.metadata().configuration.get(_MOVED_FROM) or "[]"))


def note_moved(handle: DeltaTable, former: Sequence[str], about: Mapping[str, str]) -> None:
    """Add addresses to those that the table had; its versions stay readable under their numbers."""
    addresses = sorted({*former_addresses(handle), *former})
    handle.alter.set_table_properties(
        {_MOVED_FROM: json.dumps(addresses)},
        raise_if_not_exists=False,
        commit_properties=CommitProperties(custom_metadata=dict(about)),
    )


def named_files(log: Path) -> set[str]:
    """
    Data files that any version of a table names, relative to it.

    :param log: The folder of its transaction log.
    """
    found: set[str] = set()
    for commit in log.glob("*.json"):
        with commit.open("rb") as lines:
            found.update(action["add"]["path"] for action in map(json.loads, lines) if "add" in action)
    for checkpoint in log.glob("*.checkpoint*.parquet"):  # commits before it may have been cleared away
        added = pq.ParquetFile(checkpoint).read(columns=["add.path"]).column("add").combine_chunks()
        found.update(path for path in pc.struct_field(added, "path").to_pylist() if path is not None)
    return {unquote(path) for path in found}


def newest_files(table: str) -> set[str]:
    """Data files of the newest version of a table, whatever its layout, relative to it."""
    actions = pa.table(DeltaTable(table).get_add_actions(flatten=True))
    return {unquote(path) for path in actions["path"].to_pylist()}


def partitions(handle: DeltaTable) -> list[str]:
    """Partitions that hold rows, in rising order."""
    return sorted({str(values[PARTITION]) for values in handle.partitions()})


def scanned(
    handle: DeltaTable,
    columns: Sequence[str],
    wanted: Sequence[str] | None,
    *,
    equal: tuple[str, str] | None = None,
    limit: int | None = None,
    since: tuple[str, datetime] | None = None,
    among: Mapping[str, Collection[str]] | None = None,
) -> pa.Table:
    """
    Read *columns* of the *wanted* partitions (all if None), partition by partition in rising order.

    :param equal: Column and text: only rows that hold it there.
    :param limit: Of a table without partitions: read no more rows than these.
    :param since: Column and moment: only rows that hold it or a later one there; files that hold none are not opened.
    :param among: Columns and texts: only rows that hold one of these texts in one of these columns.
    """
    rows = _filter(equal, since, among)
    if PARTITION not in handle.metadata().partition_columns:
        dataset = handle.to_pyarrow_dataset()
        if limit is not None:
            return dataset.head(limit, columns=list(columns), filter=rows)
        return dataset.to_table(columns=list(columns), filter=rows)
    there = partitions(handle)
    chosen = there if wanted is None else [name for name in there if name in set(wanted)]
    dataset = handle.to_pyarrow_dataset()
    found = [dataset.to_table(columns=list(columns), filter=(field(PARTITION) == name) & rows) for name in chosen]
    return pa.concat_tables([dataset.schema.empty_table().select(list(columns)), *found])


def _filter(
    equal: tuple[str, str] | None,
    since: tuple[str, datetime] | None,
    among: Mapping[str, Collection[str]] | None,
) -> Expression:
    rows = scalar(True)
    if equal is not None:
        rows &= field(equal[0]) == equal[1]
    if since is not None:
        rows &= field(since[0]) >= since[1]
    if among is not None:
        rows &= reduce(operator.or_, (field(name).isin(pa.array(texts, pa.string())) for name, texts in among.items()))
    return rows


def last_commit(handle: DeltaTable, key: str, value: str) -> dict[str, Any] | None:
    """
    Return the newest commit whose metadata says *key* = *value*; None if there is none. Brings *handle* up to date.

    What was committed before the table was restored does not count: it need not be what the table holds now.

    """
    limit: int | None = _RECENT
    while True:
        for commit in commits(handle, limit):
            if commit.get(key) == value:
                return commit
            if commit.get("operation") == _RESTORED:
                return None
        if limit is None:
            return None
        limit = None


def commits(handle: DeltaTable, limit: int | None) -> list[dict[str, Any]]:
    """
    Return the newest *limit* commits, newest first. Brings *handle* up to date.

    deltalake reads the newest commits that there are, but counts their versions down from the handle's own, so the
    numbers are right only if nobody committed since the handle was loaded.
    """
    while True:
        version, found = handle.version(), handle.history(limit)
        handle.update_incremental()
        if handle.version() == version:
            return found


def newest(handle: DeltaTable, key: str) -> str | None:
    """What the newest of the recent commits that says anything of *key* says; None if none does."""
    return next((str(commit[key]) for commit in handle.history(_RECENT) if key in commit), None)


@contextmanager
def explained(uri: str, s3: S3 | None = None) -> Iterator[None]:
    """
    Say in words what the file system or S3 answered.

    :raises StoreUnavailableError: Disk full, or the store cannot be reached. Retried.
    :raises ConfigurationError: S3 refuses the credentials. Not retried.
    :raises SourceError: A file of this version is gone. Not retried.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(
            f"{uri}: files of this version are gone; the table was vacuumed or its folder was cleaned by hand."
        ) from error
    except (DeltaError, OSError) as error:
        said = " ".join(_COLOURS.sub("", str(error)).split())
        if any(words in said.lower() for words in _DISK_FULL):
            raise StoreUnavailableError(
                f"Disk full while writing {uri}. Nothing of this write is visible; free space there (or choose "
                "another folder in MLOPS_TABLES_URI) and let the task retry."
            ) from error
        if s3 and (refusal := s3.refusal(uri, said)):
            raise refusal from error
        if isinstance(error, OSError) or _away(said):
            if s3:
                raise s3.away(uri, said) from error
            raise StoreUnavailableError(
                f"The table store at {uri} cannot be reached. Check MLOPS_TABLES_URI (or the connection), the network "
                f"and the credentials. It said: {said[:300]}"
            ) from error
        raise

"""Tables that somebody else wrote: Parquet files or Delta, on a disk or on S3. They are read, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import pandas as pd
import pyarrow as pa
from pyarrow import dataset as datasets
from pyarrow import fs as filesystems

from mlops_provider.core.references import AnyTable, FileTable
from mlops_provider.exceptions import ConfigurationError, SourceError, StoreUnavailableError
from mlops_provider.stores import content, frames
from mlops_provider.stores.s3 import S3, is_s3, split


@dataclass(frozen=True)
class Rows:
    """
    What was read of a table.

    :param frame: The columns asked for, (n_rows, n_columns), named as they were asked for.
    :param about: Where they come from, as the evidence keeps it: ``table`` and ``version``, or ``connection`` and
        ``query``; then ``columns``, ``rows`` and ``content``, the SHA-256 over all values.
    """

    frame: pd.DataFrame
    about: Mapping[str, Any]


class Reader(Protocol):
    """Reads columns of a table; how it comes by the credentials is its own affair."""

    def __call__(self, table: AnyTable, columns: Sequence[str] | None, *, lenient: bool = False) -> Rows:
        """
        Read.

        :param columns: Columns to read; None for all.
        :param lenient: Leave out columns that the table has not, instead of refusing it.
        :raises SourceError: There is no such table, version or column. Not retried.
        :raises StoreUnavailableError: It cannot be reached. Retried.
        """


def rows(
    table: pa.Table, source: Mapping[str, Any], columns: Sequence[str] | None, renamed: Mapping[str, str], what: str
) -> Rows:
    """Give *table*, whose columns are called as its source calls them, under the names that were asked for."""
    wanted = [name for name in columns or table.column_names if renamed.get(name, name) in table.column_names]
    if not wanted and columns:
        raise SourceError(f"{what} has none of the columns {frames.named(columns)}.")
    named = pa.table({name: table[renamed.get(name, name)] for name in wanted})
    about = {**source, "columns": wanted, "rows": named.num_rows, "content": content.digest(named)}
    return Rows(frames.as_frame(named), about)


def chosen(there: Sequence[str], columns: Sequence[str] | None, renamed: Mapping[str, str], what: str) -> list[str]:
    """
    Return the table's own names of the columns to read.

    :raises SourceError: One is not there. Not retried.
    """
    wanted = list(there) if columns is None else [renamed.get(name, name) for name in columns]
    if unknown := [name for name in wanted if name not in there]:
        raise SourceError(f"{what} has no column {frames.named(unknown)}; it has {frames.named(there)}.")
    return list(dict.fromkeys(wanted))


def read(
    table: FileTable,
    columns: Sequence[str] | None,
    *,
    lenient: bool = False,
    s3: S3 | None = None,
) -> Rows:
    """
    Read columns of a Parquet file, a folder of them, or a Delta table; as :class:`Reader` says.

    :param s3: Access to S3, if the table is there; by default with what the environment holds.
    """
    renamed = dict(table.columns or {})
    s3 = (s3 or S3()) if is_s3(table.uri) else None
    with _explained(table.uri, s3):
        system, path = _place(table.uri, s3)
        if system.get_file_info(path).type == filesystems.FileType.NotFound:
            raise SourceError(
                f"There is no table at {table.uri}: the task that writes it has not run, or wrote elsewhere."
            )
        if system.get_file_info(f"{path}/_delta_log").type == filesystems.FileType.Directory:
            return _read_delta(table, columns, renamed, s3, lenient=lenient)
        if table.version is not None:
            raise ConfigurationError(f"{table.uri} is no Delta table, so it has no version {table.version}.")
        found = datasets.dataset(path, filesystem=system, format="parquet", partitioning="hive")
        wanted = _wanted(found.schema.names, columns, renamed, table.uri, lenient=lenient)
        content = found.to_table(columns=wanted)
    return rows(content, {"table": table.uri, "version": None}, columns, renamed, table.uri)


def _read_delta(
    table: FileTable,
    columns: Sequence[str] | None,
    renamed: Mapping[str, str],
    s3: S3 | None,
    *,
    lenient: bool,
) -> Rows:
    from mlops_provider.stores import delta  # Parquet alone needs no deltalake

    with delta.explained(table.uri, s3):
        options = s3.storage_options() if s3 else {}
        handle = delta.opened(table.uri.removeprefix("file://"), options, table.version)
        wanted = _wanted(delta.schema(handle).names, columns, renamed, table.uri, lenient=lenient)
        content = delta.scanned(handle, wanted, None)
    return rows(content, {"table": table.uri, "version": handle.version()}, columns, renamed, table.uri)


def _wanted(
    there: Sequence[str], columns: Sequence[str] | None, renamed: Mapping[str, str], what: str, *, lenient: bool
) -> list[str]:
    if lenient and columns is not None:
        columns = [name for name in columns if renamed.get(name, name) in there]
    return chosen(there, columns, renamed, what)


def _place(uri: str, s3: S3 | None) -> tuple[filesystems.FileSystem, str]:
    """File system and path behind an address."""
    if s3 is not None:
        return s3.filesystem(), "/".join(split(uri))
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return filesystems.LocalFileSystem(), str(Path(unquote(parts.path)))
    if "://" in uri or not uri:
        raise ConfigurationError(f"A table in files is a path, file:// or s3://, got {uri!r}.")
    return filesystems.LocalFileSystem(), str(Path(uri).expanduser().absolute())


@contextmanager
def _explained(uri: str, s3: S3 | None) -> Iterator[None]:
    """Say in words what the file system, S3 or the file itself answered."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(
            f"There is no table at {uri}: the task that writes it has not run, or wrote elsewhere."
        ) from error
    except pa.ArrowInvalid as error:
        raise SourceError(f"{uri} is neither Parquet nor a Delta table, or is damaged: {_said(error)}") from error
    except OSError as error:
        said = _said(error)
        if s3 is not None:
            # Arrow writes ACCESS_DENIED where Amazon says AccessDenied.
            raise s3.refusal(uri, said.title().replace("_", "")) or s3.away(uri, said) from error
        raise StoreUnavailableError(
            f"{uri} cannot be read: {said}. Check its address, the network and the disk."
        ) from error


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

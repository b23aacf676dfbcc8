"""
Files of a partition that wait beside the table's until one commit takes them all.

Chunks of a run write into a folder of its own, ``partition=<month>/chunks-<number>-<run>/``, where the number is the
one that the commit will have in the partition's sequence. Only one commit can have it, so what lies under it and is not
part of that commit was left by tries that died or lost, and is removed by whoever commits next.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs
from pyarrow.dataset import ParquetFileFragment

from mlops_provider.core import chunks
from mlops_provider.core.chunks import Piece, Target
from mlops_provider.core.names import PARTITION
from mlops_provider.exceptions import StagedFilesGoneError
from mlops_provider.stores import content, delta, frames
from mlops_provider.stores.rows import Rows
from mlops_provider.stores.tables import ATTEMPTS, PartitionWriter, Tables, Written, too_busy

_BLOCKS = b"mlops.blocks"
_GROUP_ROWS = 65_536
"""Rows of a row group, so that a stretch can be read without the rest."""
_WAITING = 64
"""Blocks that may wait for their hash, which bounds the memory they take."""
_BUFFER = 1 << 20
"""Bytes that are written at once."""
_ABOUT = "about"


class Staging:
    """
    The waiting files of one run.

    :param target: The partition they are for, and its sequence when the run began.
    """

    def __init__(self, tables: Tables, target: Target) -> None:
        self.tables = tables
        self.target = target

    @property
    def folder(self) -> str:
        """Folder of the files, relative to the table."""
        return f"{self._numbered(self.target.sequence + 1)}-{self.target.run}"

    def stage(
        self,
        frame: pd.DataFrame,
        *,
        index: int,
        number: int = 0,
        start: int = -1,
        missing_as_null: bool = False,
        as_it_is: bool = False,
    ) -> Piece:
        """
        Write rows into a file of their own, in the types of the table if there is one yet.

        :param index: Place of the chunk's files among those of the partition, from 0.
        :param number: Place of the file among those of the chunk, from 0.
        :param start: Row of the partition that its first row will be; -1 if nobody knows yet.
        :param missing_as_null: Fill columns that the rows lack; else they are refused.
        :param as_it_is: Keep the frame's own types: it is no part of the table.
        :raises DataRejectedError: Columns are missing or of another type than before. Not retried.
        :raises StoreUnavailableError: Disk full, or the store cannot be reached. Retried.
        """
        with self.tables.explained(self.target.table):
            handle = delta.existing(self.target.table, self.tables.storage_options)
            rows = frames.fitted(
                frame,
                frames.without_partition(delta.schema(handle)) if handle and not as_it_is else None,
                where=self._where,
                missing_as_null=missing_as_null,
            )
            return self._written(rows, f"{index:05}-{number:05}", start=start)

    def keep(self, values: Mapping[str, NDArray[Any]], about: Any) -> str:
        """
        Write arrays and a JSON value for the task that comes last.

        :return: Where they lie, relative to the table.
        """
        path = f"{self.folder}/found-{uuid.uuid4().hex[:12]}.npz"
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **{_ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}, **values)
        with self.tables.explained(self.target.table):
            self._write(path, packed.getvalue())
        return path

    def kept(self, path: str) -> tuple[dict[str, NDArray[Any]], Any]:
        """Read what :meth:`keep` wrote."""
        with _staged_files_there(self.target.table), self._files.open_input_file(path) as file:
            found = dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
        return found, json.loads(found.pop(_ABOUT).tobytes())

    def rows(self, pieces: Sequence[Piece]) -> Rows:
        """The rows of *pieces*, one after the other."""
        with _staged_files_there(self.target.table):
            files = delta.fragments([each.path for each in pieces], self._files)
            return Rows(frames.united([_typed(file) for file in files], where=self._where), files, uri=self._where)

    def commit(self, pieces: Sequence[Piece], *, origin_key: str, missing_as_null: bool = False) -> Written:
        """
        Replace the partition by *pieces* in one commit, unless it holds the same content already.

        :raises ConcurrentWriteError: Somebody else wrote other content meanwhile. Retried.
        :raises ConfigurationError: The table belongs to another environment's ledger. Not retried.
        :raises DataRejectedError: The pieces' columns don't go together. Not retried.
        :raises StoreUnavailableError: Disk full, or the store cannot be reached. Retried.
        """
        target = self.target
        writer = PartitionWriter(self.tables, target.table, target.partition, target.sequence)
        rows, hashed = sum(each.rows for each in pieces), ("", "")
        for _ in range(ATTEMPTS):
            with self.tables.explained(target.table):
                staged = self.rows(pieces).schema
                options = self.tables.storage_options
                handle = delta.existing(target.table, options) or delta.created(
                    target.table, options, frames.with_partition(staged)
                )
                owner = self.tables.owned(handle)
                columns = delta.schema(handle).remove_metadata()
                columns = pa.schema([*columns, *(each for each in staged if each.name not in columns.names)])
                pieces = self._in_one_schema(pieces, frames.without_partition(columns), missing_as_null)
                if hashed[0] != str(columns):
                    hashed = str(columns), self._content(pieces, frames.without_partition(columns))
                commit = partial(delta.committed_files, handle, pieces, columns, partition=target.partition)
                written = writer.replaced(
                    handle, commit, content=hashed[1], rows=rows, origin_key=origin_key, owner=owner
                )
                if written:
                    return written
        raise too_busy(target.table)

    def discard(self) -> None:
        """
        Remove what nobody needs once the run has ended: its own files, and those of others that lost to its commit.

        Files that the partition is made of stay.
        """
        target = self.target
        with self.tables.explained(target.table):
            handle = delta.existing(target.table, self.tables.storage_options)
            there = delta.files(handle, [target.partition]) if handle else []
            sequence = self.tables.replaced(target.table, target.partition)
            # Files under a number that the partition is not made of belong to an earlier version: somebody restored it.
            made_of_it = any(path.startswith(f"{self._numbered(sequence)}-") for path in there)
            if sequence == target.sequence + 1 and made_of_it:
                self._remove_all_but(there, sequence)
            elif sequence == target.sequence:
                self._remove(f"{self.folder}/", but=there)

    @property
    def _files(self) -> fs.FileSystem:
        return delta.filesystem(self.target.table, self.tables.storage_options)

    @property
    def _where(self) -> str:
        return f"{self.target.table}, partition {self.target.partition}"

    def _numbered(self, sequence: int) -> str:
        return f"{PARTITION}={self.target.partition}/chunks-{sequence}"

    def _written(self, rows: pa.Table, place: str, *, start: int) -> Piece:
        path = f"{self.folder}/{place}-{uuid.uuid4().hex[:12]}.parquet"
        blocks = b"".join(content.inside(rows, start=start)) if start >= 0 else b""
        packed = pa.BufferOutputStream()
        with pq.ParquetWriter(packed, rows.schema, compression="snappy", store_schema=False) as writer:
            writer.write_table(rows, row_group_size=_GROUP_ROWS)
            writer.add_key_value_metadata({_BLOCKS: blocks.hex().encode()})
        data = packed.getvalue()
        self._write(path, data)
        return Piece(path, rows.num_rows, len(data), start, hashlib.sha256(data).hexdigest())

    def _write(self, path: str, data: Any) -> None:
        files = self._files
        files.create_dir(path.rpartition("/")[0], recursive=True)
        # deltalake's files take bytes only, which is what a buffered stream hands on of small writes.
        with files.open_output_stream(path, buffer_size=_BUFFER) as out:
            view = memoryview(data)
            for first in range(0, len(view), _BUFFER // 2):
                out.write(view[first : first + _BUFFER // 2])

    def _in_one_schema(self, pieces: Sequence[Piece], schema: pa.Schema, missing_as_null: bool) -> list[Piece]:
        """Write those pieces again whose columns are others than those of the table will be."""
        found = []
        for number, piece in enumerate(pieces):
            rows = self._as_it_is(piece)
            if _described(rows.schema) == _described(schema):
                found.append(piece)
                continue
            fitted = frames.fitted_table(rows.table(), schema, where=self._where, missing_as_null=missing_as_null)
            found.append(self._written(fitted, f"{number:05}-00000", start=piece.start))
        return found

    def _as_it_is(self, piece: Piece) -> Rows:
        file = delta.fragments([piece.path], self._files)[0]
        return Rows(file.physical_schema.remove_metadata(), [file], uri=self._where)

    def _content(self, pieces: Sequence[Piece], columns: pa.Schema) -> str:
        """Hash the rows of all pieces; of those whose place was known beforehand only the ends are read again."""
        hashed: list[Future[bytes]] = []
        rest = columns.empty_table()
        position = 0
        with ThreadPoolExecutor(2) as pool:  # hashing lets go of Python's lock
            for piece in pieces:
                for part in self._parts(piece, position):
                    if isinstance(part, bytes):
                        hashed.append(_known(part))
                        continue
                    rest = pa.concat_tables([rest, part.select(columns.names)])
                    whole = len(rest) - len(rest) % chunks.BLOCK_ROWS
                    hashed += [
                        pool.submit(content.block, rest.slice(first, chunks.BLOCK_ROWS))
                        for first in range(0, whole, chunks.BLOCK_ROWS)
                    ]
                    rest = rest.slice(whole)
                    if len(hashed) > _WAITING:
                        hashed[-_WAITING].result()
                position += piece.rows
            if len(rest):
                hashed.append(_known(content.block(rest)))
            return content.combined(columns, [each.result() for each in hashed])

    def _parts(self, piece: Piece, position: int) -> Iterator[bytes | pa.Table]:
        """Yield a piece as hashes of its whole blocks and the rows around them; as rows, if its place is another."""
        rows = self._as_it_is(piece)
        head = -position % chunks.BLOCK_ROWS
        blocks = rows.files[0].metadata.metadata[_BLOCKS] if piece.start == position else b""
        if blocks:
            yield rows.table(0, head)
            found = bytes.fromhex(blocks.decode())
            yield from (found[first : first + 32] for first in range(0, len(found), 32))
            head += len(found) // 32 * chunks.BLOCK_ROWS
            yield rows.table(head)
            return
        for first in range(0, piece.rows, _GROUP_ROWS):
            yield rows.table(first, first + _GROUP_ROWS)

    def _remove_all_but(self, paths: Sequence[str], sequence: int) -> None:
        """Remove the files that tries left under a number that has been taken, but not those at *paths*."""
        self._remove(f"{self._numbered(sequence)}-", but=paths)

    def _remove(self, start: str, *, but: Sequence[str]) -> None:
        """Remove the partition's files whose path begins with *start*, but not those at *but*."""
        within = fs.FileSelector(f"{PARTITION}={self.target.partition}", recursive=True, allow_not_found=True)
        there = [each for each in self._files.get_file_info(within) if each.path.startswith(start)]
        for each in there:
            if each.type == fs.FileType.File and each.path not in but:
                with suppress(FileNotFoundError):  # another run clears away too
                    self._files.delete_file(each.path)
        for each in there:
            if each.type == fs.FileType.Directory and not any(path.startswith(f"{each.path}/") for path in but):
                with suppress(OSError):  # somebody writes into it again
                    self._files.delete_dir(each.path)


def _described(schema: pa.Schema) -> list[tuple[str, str]]:
    return [(each.name, str(each.type)) for each in schema]


def _known(value: bytes) -> Future[bytes]:
    future: Future[bytes] = Future()
    future.set_result(value)
    return future


def _typed(file: ParquetFileFragment) -> pa.Schema:
    """The columns of a file; text of which there is none at all may be of any type."""
    values: dict[str, int] = {}
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for index in range(group.num_columns):
            column = group.column(index)
            nulls = column.statistics.null_count if column.is_stats_set else 0
            values[column.path_in_schema] = values.get(column.path_in_schema, 0) + group.num_rows - (nulls or 0)
    return pa.schema(
        [
            (each.name, pa.null() if pa.types.is_string(each.type) and values.get(each.name) == 0 else each.type)
            for each in file.physical_schema
        ]
    )


@contextmanager
def _staged_files_there(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StagedFilesGoneError(
            f"Files that the chunks of this run wrote for {uri} are gone: the run ended already, or another one "
            "replaced the partition. Clear the tasks of this step from its plan on."
        ) from error

"""
What a partition holds, as one SHA-256: the same whether it was written in one piece or in many.

The rows are cut into blocks of fixed size, counted from the partition's first row. Each block has a SHA-256 over the
values of its columns, and the content's is the one over theirs, so whoever holds a stretch of the rows can hash the
whole blocks in it without knowing the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_provider.core import chunks


def digest(table: pa.Table) -> str:
    """Return the SHA-256, in hex, over the names, types and values of *table*, rows in their order."""
    whole, rest = inside(table, start=0), table.slice(len(table) - len(table) % chunks.BLOCK_ROWS)
    return combined(table.schema, [*whole, *([block(rest)] if len(rest) else [])])


def combined(schema: pa.Schema, blocks: Iterable[bytes]) -> str:
    """Return the content's SHA-256, in hex, from those of all its blocks in their order."""
    total = hashlib.sha256()
    for field in schema:
        # Parquet and Arrow have each a name of their own for the items of a list.
        total.update(f"{field.name}\0{str(field.type).replace('<item: ', '<element: ')}\n".encode())
    for each in blocks:
        total.update(each)
    return total.hexdigest()


def inside(table: pa.Table, *, start: int) -> Iterator[bytes]:
    """
    Hash the whole blocks that lie in *table*.

    :param start: Row of the partition that is the table's first.
    """
    first = -start % chunks.BLOCK_ROWS
    for row in range(first, len(table) - chunks.BLOCK_ROWS + 1, chunks.BLOCK_ROWS):
        yield block(table.slice(row, chunks.BLOCK_ROWS))


def block(table: pa.Table) -> bytes:
    """Hash the rows of one block."""
    total = hashlib.sha256()
    for column in table.columns:
        for part in _parts(column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)):
            total.update(part)
    return total.digest()


def _parts(values: pa.Array) -> Iterator[bytes | memoryview]:
    """Yield the bytes that tell one column's values from any others; what lies under a null counts as zero."""
    kind = values.type
    if isinstance(values, pa.ChunkedArray):  # no chunk at all
        values = pa.array([], kind)
    empty = values.is_null() if values.null_count else None
    yield b"-" if empty is None else np.packbits(empty.to_numpy(zero_copy_only=False)).tobytes()
    if pa.types.is_boolean(kind):
        yield np.packbits(values.fill_null(False).to_numpy(zero_copy_only=False)).tobytes()
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        yield from _texts(values.fill_null("" if pa.types.is_string(kind) else b"") if empty is not None else values)
    elif pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        yield _numbers(values, empty)
    elif pa.types.is_list(kind):
        yield pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).tobytes()
        yield from _parts(values.flatten())
    elif pa.types.is_struct(kind):
        for part in values.flatten():
            yield from _parts(part)
    else:
        yield repr(values.to_pylist()).encode()


def _texts(values: pa.Array) -> Iterator[bytes | memoryview]:
    _, offsets, data = values.buffers()
    if not len(values):
        return
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    yield np.diff(ends).tobytes()
    if data is not None:
        yield memoryview(data)[int(ends[0]) : int(ends[-1])]


def _numbers(values: pa.Array, empty: pa.Array | None) -> bytes | memoryview:
    width, data = values.type.bit_width // 8, values.buffers()[1]
    if data is None or not len(values):
        return b""
    numbers = np.frombuffer(data, np.uint8)[values.offset * width : (values.offset + len(values)) * width]
    if empty is None:
        return numbers.data
    filled = numbers.reshape(len(values), width).copy()
    filled[empty.to_numpy(zero_copy_only=False)] = 0
    return filled.tobytes()

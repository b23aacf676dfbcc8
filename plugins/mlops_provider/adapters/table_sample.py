"""A first look at somebody's CSV or Parquet file: how it is written, and rows from all of it, few enough to hold."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mlops_provider.exceptions import SourceError

SAMPLE_ROWS = 100_000
"""Rows looked at; of a longer file rows at equal distances are taken."""
_CHUNK_ROWS = 100_000
_HEAD_BYTES = 1 << 20
_ENCODINGS = ("utf-8-sig", "cp1252")
_OPENED: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


@dataclass(frozen=True)
class TableSample:
    """
    Rows of a file, and what its reader must know.

    :param rows: Rows of the whole file.
    :param frame: Rows looked at, in the file's order, with the file's column names; those of a CSV file are text or
        missing. The index is the row's number in the file.
    :param separator: Of a CSV file.
    :param encoding: Of a CSV file.
    :param padded: Values of a CSV file begin with a space that is none of theirs.
    :param header: A CSV file's first line names its columns.
    """

    path: Path
    format: Literal["csv", "parquet"]
    rows: int
    frame: pd.DataFrame
    separator: str = ","
    encoding: str = "utf-8"
    padded: bool = False
    header: bool = True

    @property
    def whole(self) -> bool:
        """Every row of the file was looked at."""
        return len(self.frame) == self.rows


def read_sample(path: Path, *, names: tuple[str, ...] = (), most: int = SAMPLE_ROWS) -> TableSample:
    """
    Read a file once, from beginning to end, and keep at most about *most* rows of it.

    :param path: A CSV file, also one that ends in ``.gz``, ``.bz2`` or ``.xz``, or ``.parquet``.
    :param names: Names of the columns, for a CSV file whose first line does not have them.
    :raises SourceError: It is not there, is neither of the two, has no rows, or no names of columns. Not retried.
    """
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")
    try:
        if path.suffix in (".parquet", ".pq"):
            if names:
                raise SourceError(f"{path.name} is Parquet, which names its columns itself: leave out --columns.")
            return _parquet(path, most)
        return _csv(path, names, most)
    except (UnicodeDecodeError, pd.errors.ParserError, csv.Error, EOFError) as error:
        raise SourceError(f"{path.name} can't be read as CSV ({type(error).__name__}): {error}") from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}.") from error


def _parquet(path: Path, most: int) -> TableSample:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowException as error:
        raise SourceError(f"{path.name} is no Parquet file, whatever its name says: {error}") from error
    rows = file.metadata.num_rows
    if not rows:
        raise SourceError(f"{path.name} has no rows.")
    parts = (batch.to_pandas() for batch in file.iter_batches(_CHUNK_ROWS))
    return TableSample(path, "parquet", rows, _thinned(parts, -(-rows // most)))


def _csv(path: Path, names: tuple[str, ...], most: int) -> TableSample:
    head, encoding = _head(path)
    lines = [line for line in head.splitlines()[:-1] or head.splitlines() if line.strip()]
    if not lines:
        raise SourceError(f"{path.name} is empty.")
    separator = _separator(lines)
    [first, *_] = csv.reader(lines[:1], delimiter=separator, skipinitialspace=True)
    if not names:
        _require_header(path, first)
    elif len(names) != len(first):
        raise SourceError(f"{path.name} has {len(first)} columns, and --columns names {len(names)}.")
    found = TableSample(
        path, "csv", 0, pd.DataFrame(), separator, encoding, padded=separator + " " in lines[-1], header=not names
    )
    # About as long as the first lines are, which is all that is needed to know how many rows to skip.
    unpacked = path.stat().st_size * (5 if path.suffix in _OPENED else 1)
    rows = max(1, int(unpacked / (sum(map(len, lines)) / len(lines) + 1)))
    counted = [0]
    frame = _thinned(_parts(found, names, counted), max(1, rows // most))
    if not counted[0]:
        raise SourceError(f"{path.name} has no rows.")
    return TableSample(**{**found.__dict__, "rows": counted[0], "frame": frame})


def _head(path: Path) -> tuple[str, str]:
    """Return the beginning of a text file and its encoding."""
    with _OPENED.get(path.suffix, Path.open)(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    head = head[: head.rfind(b"\n") + 1] or head
    for encoding in _ENCODINGS:
        try:
            text = head.decode(encoding)
        except UnicodeDecodeError:
            continue
        return text, "utf-8" if encoding == "utf-8-sig" and not head.startswith(b"\xef\xbb\xbf") else encoding
    raise SourceError(f"{path.name} is neither UTF-8 nor Windows-1252 text. If it is Parquet, name it .parquet.")


def _separator(lines: list[str]) -> str:
    """The one that cuts the first lines into the same number of fields, the more the better."""

    def fields(separator: str) -> int:
        counts = {len(row) for row in csv.reader(lines[:50], delimiter=separator)}
        return counts.pop() if len(counts) == 1 else 0

    return max((",", ";", "\t", "|"), key=fields)


def _require_header(path: Path, first: list[str]) -> None:
    """Refuse a first line that holds values."""
    numbers = [name for name in first if _NUMBER.fullmatch(name)]
    if numbers or len(set(first)) < len(first) or not all(name.strip() for name in first[1:]):
        raise SourceError(
            f"The first line of {path.name} holds values, not the names of its {len(first)} columns "
            "(a number, a repeated name, or none): name them with --columns a,b,c."
        )


def _parts(found: TableSample, names: tuple[str, ...], counted: list[int]) -> Iterator[pd.DataFrame]:
    for part in pd.read_csv(
        found.path,
        sep=found.separator,
        encoding=found.encoding,
        dtype=str,
        skipinitialspace=True,
        chunksize=_CHUNK_ROWS,
        **({"names": list(names), "header": None} if names else {}),  # type: ignore[call-overload]
    ):
        counted[0] += len(part)
        yield part


def _thinned(parts: Iterator[pd.DataFrame], step: int) -> pd.DataFrame:
    kept, before = [], 0
    for part in parts:
        part.index = pd.RangeIndex(before, before + len(part))
        kept.append(part[np.arange(before, before + len(part)) % step == 0])
        before += len(part)
    return pd.concat(kept) if kept else pd.DataFrame()

"""
Check rows in chunks, and add up what was found to what a check of all rows in one piece says.

What looks at one row at a time is checked on the chunks. A repeated key may have its rows in two of them, so each chunk
hands on a sorted hash of every key: rows whose hash comes twice are read again, and Great Expectations says which of
them repeat a key. Other aggregates are checked on the whole of their columns, one expectation after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.adapters import checks, validation
from mlops_provider.adapters.expectations import Expectation, Findings, Keys, Part, Validation, WholeRows

_KEYS_AT_ONCE = 12_000_000
"""Hashes of keys that are compared at once, 8 bytes each."""
_SUSPECTS_AT_ONCE = 250_000
"""Rows with equal hashes that are read at once."""


def check_chunk(frame: pd.DataFrame, expectations: Sequence[Expectation], *, start: int) -> Findings:
    """
    Check on some of the rows what can be checked there; :func:`conclude` adds it up.

    :param frame: Rows in the types of the whole: a column of integers that has a null elsewhere comes as ``float64``.
    :param start: Row of the whole that is the frame's first.
    """
    frame = frame.copy(deep=False)
    frame.index = pd.RangeIndex(len(frame))
    looks_at = [checks.looks_at(each) for each in expectations]
    row_wise = [index for index, what in enumerate(looks_at) if what == "rows"]
    found = checks.checked(frame, [expectations[index] for index in row_wise])
    keys = {
        index: _keys(frame, each)
        for index, each in enumerate(expectations)
        if looks_at[index] == "keys" and set(each.columns) <= set(frame.columns)
    }
    return Findings(start, dict(zip(row_wise, found, strict=True)), keys)


def set_apart(found: Findings, expectations: Sequence[Expectation]) -> NDArray[np.int64]:
    """Positions in the chunk of the rows that break, by themselves, an expectation that sets rows apart."""
    rows = [part.rows for index, part in found.parts.items() if expectations[index].severity == "quarantine"]
    return np.unique(np.concatenate([np.empty(0, "int64"), *rows]))


def conclude(expectations: Sequence[Expectation], chunks: Iterable[Findings], rows: WholeRows) -> Validation:
    """
    Add up what was found in the chunks, and check what only the whole can tell: the same as ``validate`` gives.

    :param chunks: Findings of all chunks in the order of their rows; gone through more than once, one at a time.
    :param rows: The rows of all chunks.
    """
    parts = _added(expectations, chunks)
    by_columns: dict[tuple[str, ...], list[int]] = {}
    for index, each in enumerate(expectations):
        if index in parts:
            continue
        missing = not set(each.columns) <= set(rows.columns)
        what = "schema" if missing else checks.looks_at(each)
        if what == "keys":
            parts[index] = _repeated(index, each, chunks, rows)
        elif what == "columns":
            by_columns.setdefault(tuple(sorted(set(each.columns))), []).append(index)
        else:
            frame = _whole(what, rows)
            part = checks.checked(frame, [each])[0]
            repeats = each.type in checks.REPEATED_KEYS
            parts[index] = validation.told_apart(each, part, frame.loc[part.rows]) if repeats else part
    for columns, group in by_columns.items():
        frame = pd.DataFrame({column: rows.values(column) for column in columns}, copy=False)
        parts |= zip(group, checks.checked(frame, [expectations[index] for index in group]), strict=True)
    return validation.concluded(expectations, [parts[index] for index in range(len(expectations))], total=len(rows))


def _whole(what: str, rows: WholeRows) -> pd.DataFrame:
    if what == "count":
        return pd.DataFrame(index=pd.RangeIndex(len(rows)))
    return rows.frame(0, 0) if what == "schema" else rows.frame()


def _added(expectations: Sequence[Expectation], chunks: Iterable[Findings]) -> dict[int, Part]:
    """Add up the parts of each expectation as Great Expectations would have counted them in one."""
    sums: dict[int, Part] = {}
    bad: dict[int, list[NDArray[np.int64]]] = {}
    for found in chunks:
        for index, part in found.parts.items():
            sums[index] = _sum(expectations[index], sums[index], part) if index in sums else part
            bad.setdefault(index, []).append(part.rows + found.start)
    return {
        index: dataclasses.replace(part, rows=np.concatenate(bad[index]) if part.considered is not None else part.rows)
        for index, part in sums.items()
    }


def _sum(expectation: Expectation, one: Part, other: Part) -> Part:
    if not (one.checked and other.checked):
        return other if one.checked else one
    if one.considered is None or other.considered is None:
        return other if one.met else one
    considered, breaking = one.considered + other.considered, one.breaking + other.breaking
    return Part(True, _kept_by_most(expectation, considered, breaking), considered, breaking, "")


def _kept_by_most(expectation: Expectation, considered: int, breaking: int) -> bool:
    return not considered or (considered - breaking) / considered >= expectation.kwargs.get("mostly", 1)


def _keys(frame: pd.DataFrame, expectation: Expectation) -> Keys:
    """Hash the key of each row that is looked at, so that keys which pandas holds for equal have equal hashes."""
    keys = frame[list(expectation.columns)]
    floats = [column for column in keys if pd.api.types.is_float_dtype(keys[column])]
    keys = keys.assign(**{str(column): keys[column] + 0.0 for column in floats})  # there is a zero below zero
    positions = np.flatnonzero(~_ignored(keys, expectation)).astype("uint32")
    hashes = np.asarray(pd.util.hash_pandas_object(keys, index=False), dtype="uint64")[positions]
    order = np.argsort(hashes)
    return Keys(hashes[order], positions[order])


def _ignored(keys: pd.DataFrame, expectation: Expectation) -> NDArray[np.bool_]:
    """Rows that an expectation about keys leaves out because of missing values."""
    missing = keys.isna().to_numpy()
    if "column" in expectation.kwargs:
        return missing[:, 0]
    rule = expectation.kwargs.get("ignore_row_if", "all_values_are_missing")
    if rule == "never":
        return np.zeros(len(keys), dtype=bool)
    return np.asarray(missing.any(axis=1) if rule == "any_value_is_missing" else missing.all(axis=1))


def _repeated(index: int, expectation: Expectation, chunks: Iterable[Findings], rows: WholeRows) -> Part:
    """Find the rows that repeat a key: those with equal hashes are read, and Great Expectations says which do."""
    considered = sum(len(found.keys[index].hashes) for found in chunks)
    breaking, to_go = 0, [np.empty(0, "int64")]
    for positions in _suspects(index, chunks, considered):
        frame = rows.take(positions)
        part = checks.checked(frame, [expectation])[0]
        if not part.checked:
            return part
        breaking += part.breaking
        to_go.append(positions[validation.told_apart(expectation, part, frame.loc[part.rows]).rows])
    met = _kept_by_most(expectation, considered, breaking)
    return Part(True, met, considered, breaking, "", np.sort(np.concatenate(to_go)))


def _suspects(index: int, chunks: Iterable[Findings], considered: int) -> Iterator[NDArray[np.int64]]:
    """Yield positions of rows whose hash another row has too; rows of equal hash come together, a bounded number."""
    for first, last in pairwise(_edges(-(-considered // _KEYS_AT_ONCE))):
        seen = _twice((_between(found.keys[index].hashes, first, last) for found in chunks), considered)
        if len(seen):
            hashes, positions = [], []
            for found in chunks:
                keys = found.keys[index]
                starts, ends = (np.searchsorted(keys.hashes, seen, side=side) for side in ("left", "right"))
                at = _spans(starts, ends)
                hashes.append(keys.hashes[at])
                positions.append(keys.positions[at].astype("int64") + found.start)
            yield from _together(np.concatenate(hashes), np.concatenate(positions))


def _edges(passes: int) -> list[int]:
    """Cut all hashes into as many ranges; each range is gone through in one pass."""
    return [2**64 * number // max(passes, 1) for number in range(max(passes, 1) + 1)]


def _between(hashes: NDArray[np.uint64], first: int, last: int) -> NDArray[np.uint64]:
    low = np.searchsorted(hashes, np.uint64(first))
    return hashes[low : np.searchsorted(hashes, np.uint64(last - 1), side="right")]


def _spans(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """All positions from each start to before its end."""
    lengths = ends - starts
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.asarray(np.repeat(starts, lengths) + within)


def _twice(hashes: Iterable[NDArray[np.uint64]], at_most: int) -> NDArray[np.uint64]:
    """
    Hashes that come more than once, rising.

    :param at_most: How many there can be; memory is taken for those that there are.
    """
    together, last = np.empty(at_most, "uint64"), 0
    for part in hashes:
        together[last : last + len(part)] = part
        last += len(part)
    together = together[:last]
    together.sort()
    return np.unique(together[1:][together[1:] == together[:-1]])


def _together(hashes: NDArray[np.uint64], positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut rows into groups that can be looked at alone: rows with equal hashes are never parted."""
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order][:1] - np.uint64(1)))
    first = 0
    while first < len(order):
        after = starts[np.searchsorted(starts, first + _SUSPECTS_AT_ONCE) :][:1]
        last = int(after[0]) if len(after) else len(order)
        yield np.sort(positions[order[first:last]])
        first = last

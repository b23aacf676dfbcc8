"""Check a frame against declared expectations: Great Expectations in memory, told to be quiet. Its only importer."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.adapters.expectations import (
    Expectation,
    ExpectationsFile,
    Findings,
    Outcome,
    Part,
    Severity,
    Validation,
    WholeRows,
)
from mlops_provider.checked_yaml import Document, Problem
from mlops_provider.exceptions import SpecError

# Under Airflow's logging, importing Great Expectations alone writes dozens of "Skipping registering function" lines.
logging.getLogger("great_expectations").setLevel(logging.WARNING)

import great_expectations as gx  # noqa: E402
from great_expectations.core.expectation_suite import ExpectationSuite  # noqa: E402
from great_expectations.data_context.types.base import (  # noqa: E402
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.exceptions.exceptions import GreatExpectationsError  # noqa: E402
from great_expectations.expectations.expectation import (  # noqa: E402
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration  # noqa: E402
from great_expectations.expectations.metadata_types import FailureSeverity  # noqa: E402
from great_expectations.expectations.registry import get_expectation_impl  # noqa: E402

_GX_SEVERITY: Mapping[Severity, FailureSeverity] = {
    "block": FailureSeverity.CRITICAL,
    "quarantine": FailureSeverity.WARNING,
    "warn": FailureSeverity.INFO,
}
_OUR_SEVERITY: Mapping[FailureSeverity, Severity] = {theirs: ours for ours, theirs in _GX_SEVERITY.items()}
_MAPS = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
"""Classes of expectations that ask something about every row."""
_REPEATED_KEYS = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
_NOT_ROW_WISE = (
    *_REPEATED_KEYS,
    "expect_column_value_z_scores_to_be_less_than",
    "expect_column_values_to_be_decreasing",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_not_be_outliers",
    "expect_multicolumn_values_to_be_unique",
)
"""Those of them whose answer for one row depends on others."""
_KEYS_AT_ONCE = 8_000_000
"""Hashes of keys that are compared at once."""
_SUSPECTS_AT_ONCE = 250_000
"""Rows with equal hashes that are read at once."""

# Expectations whose observed value describes the frame. What others observe may be the value of a row: never shown.
_OBSERVES_THE_FRAME = (
    "expect_table_row_count",
    "expect_table_column_count",
    "expect_column_mean",
    "expect_column_median",
    "expect_column_stdev",
    "expect_column_proportion",
    "expect_column_unique_value_count",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_be_in_type_list",
)


def load_expectations(path: Path) -> tuple[Expectation, ...]:
    """
    Read an ``expectations.yaml``.

    :raises SpecError: Each line of the message is ``file:line: what, expected what``. Not retried.
    """
    document = Document(path)
    expectations = document.check(ExpectationsFile).expectations
    problems: list[Problem] = []
    for index, expectation in enumerate(expectations):
        place = ("expectations", index)
        if any((other.type, other.kwargs) == (expectation.type, expectation.kwargs) for other in expectations[:index]):
            problems.append((place, "stands here twice."))
        try:
            _configured(expectation, index)
        except GreatExpectationsError as error:
            problems.append(((*place, "type"), f"{error.message}."))
        except ValueError as error:  # Great Expectations' own check of the arguments
            problems.append(((*place, "kwargs"), "; ".join(dict.fromkeys(map(_argument_problem, error.errors())))))  # type: ignore[attr-defined]
    if problems:
        raise document.error(problems)
    return tuple(expectations)


def load_suite(path: Path) -> tuple[Expectation, ...]:
    """
    Read a suite that Great Expectations wrote as JSON: its severities critical, warning and info are our block,
    quarantine and warn; an expectation without one blocks.

    :raises SpecError: It is no such suite, or one expectation is wrong. Not retried.
    """
    try:
        declared = json.loads(path.read_text(encoding="utf-8"))["expectations"]
        found = tuple(_of_suite(each) for each in declared)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{path}: expected a suite of Great Expectations in JSON, with a list under 'expectations': {error}"
        ) from error
    if not found:
        raise SpecError(f"{path}: the suite has no expectation in it.")
    for index, expectation in enumerate(found):
        try:
            _configured(expectation, index)
        except GreatExpectationsError as error:
            raise SpecError(f"{path}: expectation {index + 1}, {expectation.type}: {error.message}") from error
        except ValueError as error:
            problems = "; ".join(dict.fromkeys(map(_argument_problem, error.errors())))  # type: ignore[attr-defined]
            raise SpecError(f"{path}: expectation {index + 1}, {expectation.type}: {problems}") from error
    return found


def _of_suite(declared: Mapping[str, Any]) -> Expectation:
    kwargs = {name: value for name, value in (declared.get("kwargs") or {}).items() if name != "batch_id"}
    severity = _OUR_SEVERITY[FailureSeverity(declared.get("severity") or FailureSeverity.CRITICAL)]
    about = ", ".join(str(kwargs[name]) for name in ("column", "column_A", "column_B", "column_list") if name in kwargs)
    words = str(declared["type"]).removeprefix("expect_").replace("_", " ")
    meaning = declared.get("description") or (f"{about}: {words}" if about else words)
    return Expectation(type=declared["type"], kwargs=kwargs, severity=severity, meaning=meaning)


def validate(frame: pd.DataFrame, expectations: Sequence[Expectation]) -> Validation:
    """
    Check every expectation on *frame*.

    Rows with the same key are told apart: of exact copies the first is kept, rows that contradict each other all go.

    :param frame: Shape (n_rows, n_columns); the index is not looked at.
    """
    frame = frame.reset_index(drop=True)
    parts = _checked(frame, expectations)
    parts = [
        _told_apart(each, part, frame) if each.type in _REPEATED_KEYS else part
        for each, part in zip(expectations, parts, strict=True)
    ]
    return _concluded(expectations, parts, total=len(frame))


def divide(frame: pd.DataFrame, validation: Validation, *, reasons: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the clean rows, and the rejected ones with a text column *reasons*; together they are all of *frame*."""
    frame = frame.reset_index(drop=True)
    rejected = validation.rejected
    bad = frame.loc[rejected].assign(**{reasons: validation.reasons(rejected)})
    return frame.drop(index=pd.Index(rejected)).reset_index(drop=True), bad.reset_index(drop=True)


def check_chunk(frame: pd.DataFrame, expectations: Sequence[Expectation], *, start: int) -> Findings:
    """
    Check on some of the rows what can be checked there; :func:`conclude` adds it up.

    :param frame: Rows in the types of the whole: a column of integers that has a null elsewhere comes as ``float64``.
    :param start: Row of the whole that is the frame's first.
    """
    frame = frame.reset_index(drop=True)
    row_wise = {index: each for index, each in enumerate(expectations) if _looks_at(each) == "rows"}
    parts = dict(zip(row_wise, _checked(frame, list(row_wise.values())), strict=True))
    keys, ignored = {}, {}
    for index, each in enumerate(expectations):
        if _looks_at(each) == "keys" and set(each.columns) <= set(frame.columns):
            keys[index], ignored[index] = _key_hashes(frame[list(each.columns)]), _ignored(frame, each)
    return Findings(start, parts, keys, ignored)


def set_apart(found: Findings, expectations: Sequence[Expectation]) -> NDArray[np.int64]:
    """Positions in the chunk of the rows that break, by themselves, an expectation that sets rows apart."""
    rows = [part.rows for index, part in found.parts.items() if expectations[index].severity == "quarantine"]
    return np.unique(np.concatenate([np.empty(0, "int64"), *rows]))


def conclude(expectations: Sequence[Expectation], chunks: Iterable[Findings], rows: WholeRows) -> Validation:
    """
    Add up what was found in the chunks, and check what only the whole can tell: the same as :func:`validate` gives.

    Repeated keys are looked for among rows whose hashed keys are equal, and other aggregates get only their columns.

    :param chunks: Findings of all chunks in the order of their rows; gone through more than once, one at a time.
    :param rows: The rows of all chunks.
    """
    parts: dict[int, Part] = {}
    for found in chunks:
        for index, part in found.parts.items():
            moved = dataclasses.replace(part, rows=part.rows + found.start)
            parts[index] = _added(expectations[index], parts[index], moved) if index in parts else moved
    by_columns: dict[tuple[str, ...], list[int]] = {}
    for index, each in enumerate(expectations):
        if index not in parts:
            missing = not set(each.columns) <= set(rows.columns)
            what = "schema" if missing else _looks_at(each)
            if what == "keys":
                parts[index] = _repeated(index, each, chunks, rows)
            elif what == "columns":
                by_columns.setdefault(tuple(sorted(set(each.columns))), []).append(index)
            else:
                frame = _whole(what, rows)
                parts[index] = _checked(frame, [each])[0]
    for columns, group in by_columns.items():
        frame = pd.DataFrame({column: rows.values(column) for column in columns}, copy=False)
        for index in group:
            part = _checked(frame, [expectations[index]])[0]
            if expectations[index].type in _REPEATED_KEYS:
                part = _told_apart(expectations[index], part, rows.take(part.rows), at=part.rows)
            parts[index] = part
    return _concluded(expectations, [parts[index] for index in range(len(expectations))], total=len(rows))


def _looks_at(expectation: Expectation) -> Literal["rows", "keys", "columns", "count", "schema", "table"]:
    """What of a table an expectation has to see."""
    if "row_condition" in expectation.kwargs and expectation.type in _NOT_ROW_WISE:
        return "table"
    if expectation.type in _REPEATED_KEYS:
        return "keys"
    if expectation.type.startswith("expect_table_row_count_to_") and "other_table" not in expectation.type:
        return "count"
    if expectation.type.startswith("expect_table_column") or expectation.type == "expect_column_to_exist":
        return "schema"
    if expectation.type not in _NOT_ROW_WISE and issubclass(get_expectation_impl(expectation.type), _MAPS):
        return "rows"
    return "columns" if expectation.columns and "row_condition" not in expectation.kwargs else "table"


def _whole(what: str, rows: WholeRows) -> pd.DataFrame:
    if what == "count":
        return pd.DataFrame(index=pd.RangeIndex(len(rows)))
    return rows.frame(0, 0) if what == "schema" else rows.frame()


def _checked(frame: pd.DataFrame, expectations: Sequence[Expectation]) -> list[Part]:
    """Let Great Expectations check what it can; only the columns that are looked at are handed to it."""
    able = {
        index: each
        for index, each in enumerate(expectations)
        if set(each.columns) <= set(frame.columns) or each.type == "expect_column_to_exist"
    }
    found = _results(_narrowed(frame, able.values()), able)
    return [_part(each, found[index] if index in able else None, frame) for index, each in enumerate(expectations)]


def _narrowed(frame: pd.DataFrame, expectations: Iterable[Expectation]) -> pd.DataFrame:
    """Leave out columns that nothing looks at: Great Expectations copies whole frames again and again."""
    if any(not each.columns or "row_condition" in each.kwargs for each in expectations):
        return frame
    looked_at = {column for each in expectations for column in each.columns}
    return frame[[column for column in frame if column in looked_at]]


def _results(frame: pd.DataFrame, expectations: Mapping[int, Expectation]) -> dict[int, Any]:
    if not expectations:
        return {}
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    suite = context.suites.add(
        ExpectationSuite("declared", expectations=[_configured(each, index) for index, each in expectations.items()])
    )
    definition = context.data_sources.add_pandas("frame").add_dataframe_asset("frame").add_batch_definition("all")
    result = definition.get_batch({"dataframe": frame}).validate(
        suite, result_format={"result_format": "COMPLETE", "include_unexpected_rows": False}
    )
    # Great Expectations gives results in an order of its own.
    return {each.expectation_config.meta["index"]: each for each in result.results if each.expectation_config}


def _part(expectation: Expectation, found: Any, frame: pd.DataFrame) -> Part:
    missing = [column for column in expectation.columns if column not in frame]
    if missing:
        return Part(False, False, None, 0, f"could not be checked, there is no column {', '.join(missing)}")
    result = found.result
    if not result:
        kinds = ", ".join(f"{column} is {frame[column].dtype}" for column in expectation.columns)
        return Part(False, False, None, 0, f"could not be checked{kinds and f', {kinds}'}")
    if "unexpected_index_list" not in result:
        observed = _observed(expectation, result) if not found.success else "as expected"
        return Part(True, bool(found.success), None, 0, observed)
    rows = np.asarray(result["unexpected_index_list"], dtype="int64")
    considered = int(result["element_count"]) - int(result.get("missing_count") or 0)
    kept = rows if expectation.severity == "quarantine" or expectation.type in _REPEATED_KEYS else rows[:0]
    return Part(True, bool(found.success), considered, len(rows), "", kept)


def _added(expectation: Expectation, one: Part, other: Part) -> Part:
    """Add up two parts of the same expectation as Great Expectations would have counted them in one."""
    if not (one.checked and other.checked):
        return other if one.checked else one
    if one.considered is None or other.considered is None:
        return other if one.met else one
    considered, breaking = one.considered + other.considered, one.breaking + other.breaking
    rows = np.concatenate([one.rows, other.rows])
    return Part(True, _kept_by_most(expectation, considered, breaking), considered, breaking, "", rows)


def _kept_by_most(expectation: Expectation, considered: int, breaking: int) -> bool:
    return not considered or (considered - breaking) / considered >= expectation.kwargs.get("mostly", 1)


def _key_hashes(keys: pd.DataFrame) -> NDArray[np.uint64]:
    """Hash each row so that keys which pandas holds for equal have equal hashes."""
    floats = [column for column in keys if pd.api.types.is_float_dtype(keys[column])]
    keys = keys.assign(**{str(column): keys[column] + 0.0 for column in floats})  # there is a zero below zero
    return np.asarray(pd.util.hash_pandas_object(keys, index=False), dtype="uint64")


def _ignored(frame: pd.DataFrame, expectation: Expectation) -> NDArray[np.bool_]:
    """Rows that an expectation about keys leaves out because of missing values."""
    missing = frame[list(expectation.columns)].isna()
    if "column" in expectation.kwargs:
        return missing.iloc[:, 0].to_numpy()
    rule = expectation.kwargs.get("ignore_row_if", "all_values_are_missing")
    if rule == "never":
        return np.zeros(len(frame), dtype=bool)
    return (missing.any(axis=1) if rule == "any_value_is_missing" else missing.all(axis=1)).to_numpy()


def _repeated(index: int, expectation: Expectation, chunks: Iterable[Findings], rows: WholeRows) -> Part:
    """Find the rows that repeat a key: those with equal hashes are read, and Great Expectations says which do."""
    considered = sum(int((~found.ignored[index]).sum()) for found in chunks)
    breaking, to_go = 0, [np.empty(0, "int64")]
    for positions in _suspects(index, chunks, len(rows)):
        frame = rows.take(positions)
        part = _checked(frame, [expectation])[0]
        if not part.checked:
            return part
        breaking += part.breaking
        to_go.append(positions[_told_apart(expectation, part, frame).rows])
    met = _kept_by_most(expectation, considered, breaking)
    return Part(True, met, considered, breaking, "", np.sort(np.concatenate(to_go)))


def _suspects(index: int, chunks: Iterable[Findings], total: int) -> Iterator[NDArray[np.int64]]:
    """Yield positions of rows whose hash another row has too; rows of equal hash come together, a bounded number."""
    passes = -(-total // _KEYS_AT_ONCE)
    for number in range(passes):
        hashes, positions = [np.empty(0, "uint64")], [np.empty(0, "int64")]
        seen = _twice(_in_pass(found, index, number, passes)[0] for found in chunks)
        if len(seen):
            for found in chunks:
                hashed, at = _in_pass(found, index, number, passes)
                again = np.isin(hashed, seen)
                hashes.append(hashed[again])
                positions.append(at[again])
        yield from _together(np.concatenate(hashes), np.concatenate(positions))


def _in_pass(found: Findings, index: int, number: int, passes: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of one chunk that belong to a pass, and the rows they stand for."""
    wanted = ~found.ignored[index]
    if passes > 1:
        wanted &= found.keys[index] % passes == number
    return found.keys[index][wanted], np.flatnonzero(wanted) + found.start


def _twice(hashes: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    together = np.concatenate([np.empty(0, "uint64"), *hashes])
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


def _concluded(expectations: Sequence[Expectation], parts: Sequence[Part], *, total: int) -> Validation:
    outcomes = []
    for expectation, part in zip(expectations, parts, strict=True):
        if part.considered is None:
            outcomes.append(Outcome(expectation, part.met, part.checked, None, part.observed))
            continue
        failing = len(part.rows) if expectation.type in _REPEATED_KEYS else part.breaking
        rows = part.rows if expectation.severity == "quarantine" else part.rows[:0]
        outcomes.append(Outcome(expectation, part.met, True, failing, _counted(expectation, failing, total), rows))
    return Validation(total, tuple(outcomes))


def _configured(expectation: Expectation, index: int) -> Any:
    return ExpectationConfiguration(
        type=expectation.type,
        kwargs=dict(expectation.kwargs),
        meta={"index": index},
        severity=_GX_SEVERITY[expectation.severity],
        description=expectation.meaning,
    ).to_domain_obj()


def _argument_problem(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"] if part != "__root__")
    return f"{name}: {error['msg']}" if name else str(error["msg"])


def _told_apart(
    expectation: Expectation, part: Part, frame: pd.DataFrame, *, at: NDArray[np.int64] | None = None
) -> Part:
    """
    Of rows with a repeated key keep only those that are to go.

    :param at: Positions that the frame's rows have in the part; by default they are those in the frame.
    """
    if part.considered is None:
        return part
    key = expectation.kwargs.get("column_list") or [expectation.kwargs["column"]]
    repeated = frame.set_axis(at) if at is not None else frame.loc[part.rows]
    copies = repeated.duplicated(keep="first")
    contradicting = repeated[~copies].duplicated(list(key), keep=False)
    rows = np.sort(np.concatenate([repeated.index[copies], contradicting.index[contradicting]])).astype("int64")
    return dataclasses.replace(part, rows=rows)


def _counted(expectation: Expectation, failing: int, total: int) -> str:
    share = failing / max(total, 1)
    shown = "less than 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"
    mostly = expectation.kwargs.get("mostly")
    allowed = "" if mostly is None else f", at most {1 - mostly:.1%} may"
    return f"{failing:,} of {total:,} rows break it ({shown}{allowed})"


def _observed(expectation: Expectation, result: Mapping[str, Any]) -> str:
    """Say what was found, if that is not the value of a row."""
    absent = (result.get("details") or {}).get("mismatched", {}).get("missing")
    if absent:
        return f"missing: {', '.join(map(str, absent))}"
    value = result.get("observed_value")
    if value is None or not expectation.type.startswith(_OBSERVES_THE_FRAME):
        return "not as expected"
    limits = {
        name.rstrip("_").replace("_", " "): limit for name, limit in expectation.kwargs.items() if name != "column"
    }
    return f"found {value}, expected {', '.join(f'{name} {limit}' for name, limit in limits.items())}"

"""
Ask Great Expectations about a frame, in memory. Its only importer.

It computes metrics from rows and concludes from metrics. So the metrics of an expectation about single rows are
computed on one stretch of rows after the other, their counts are added, and Great Expectations concludes once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.adapters.expectations import Expectation, Part, Severity

# Under Airflow's logging, importing Great Expectations alone writes dozens of "Skipping registering function" lines.
logging.getLogger("great_expectations").setLevel(logging.WARNING)

from great_expectations.exceptions.exceptions import GreatExpectationsError  # noqa: E402
from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine  # noqa: E402
from great_expectations.expectations.expectation import (  # noqa: E402
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration  # noqa: E402
from great_expectations.expectations.metadata_types import FailureSeverity  # noqa: E402
from great_expectations.expectations.registry import get_expectation_impl  # noqa: E402
from great_expectations.validator.metrics_calculator import MetricsCalculator  # noqa: E402
from great_expectations.validator.validation_graph import ValidationGraph  # noqa: E402

_GX_SEVERITY: Mapping[Severity, FailureSeverity] = {
    "block": FailureSeverity.CRITICAL,
    "quarantine": FailureSeverity.WARNING,
    "warn": FailureSeverity.INFO,
}
_OUR_SEVERITY: Mapping[FailureSeverity, Severity] = {theirs: ours for ours, theirs in _GX_SEVERITY.items()}
_MAPS = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
"""Classes of expectations that ask something about every row."""
REPEATED_KEYS = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
_NOT_ROW_WISE = (
    *REPEATED_KEYS,
    "expect_column_value_z_scores_to_be_less_than",
    "expect_column_values_to_be_decreasing",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_not_be_outliers",
    "expect_multicolumn_values_to_be_unique",
)
"""Those of them whose answer for one row depends on others."""

_AT_ONCE = 65_536
"""Rows of a stretch: Great Expectations copies what it looks at several times, and small copies stay in the cache."""
_RUNTIME = {"result_format": {"result_format": "COMPLETE", "include_unexpected_rows": False}, "catch_exceptions": True}
_COUNTS = ("unexpected_count", "filtered_row_count", "row_count")
_ROWS = "unexpected_index_list"
_EXAMPLES = {"unexpected_values": [], "unexpected_index_query": ""}
"""Metrics that only show values of rows; nobody may see those, so they are not computed."""
_ALL = "\0"
"""Name of the frame with all columns."""
_OF_THE_FRAME = ("columns", "column_types")

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


def severity_of(declared: str | None) -> Severity:
    """
    Translate the severity in a suite of Great Expectations; one that is not declared is critical.

    :raises ValueError: There is no such severity.
    """
    return _OUR_SEVERITY[FailureSeverity(declared or FailureSeverity.CRITICAL)]


def problem_of(expectation: Expectation) -> tuple[Literal["type", "kwargs"], str] | None:
    """Say what is wrong with a declared expectation, and in which of its fields; None if nothing is."""
    try:
        _configured(expectation)
    except GreatExpectationsError as error:
        return "type", error.message
    except ValueError as error:  # Great Expectations' own check of the arguments
        return "kwargs", "; ".join(dict.fromkeys(map(_argument_problem, error.errors())))  # type: ignore[attr-defined]
    return None


def looks_at(expectation: Expectation) -> Literal["rows", "keys", "columns", "count", "schema", "table"]:
    """What of a table an expectation has to see."""
    if "row_condition" in expectation.kwargs and expectation.type in _NOT_ROW_WISE:
        return "table"
    if expectation.type in REPEATED_KEYS:
        return "keys"
    if expectation.type.startswith("expect_table_row_count_to_") and "other_table" not in expectation.type:
        return "count"
    if expectation.type.startswith("expect_table_column") or expectation.type == "expect_column_to_exist":
        return "schema"
    if expectation.type not in _NOT_ROW_WISE and issubclass(get_expectation_impl(expectation.type), _MAPS):
        return "rows"
    return "columns" if expectation.columns and "row_condition" not in expectation.kwargs else "table"


def checked(frame: pd.DataFrame, expectations: Sequence[Expectation]) -> list[Part]:
    """
    Let Great Expectations check a frame.

    :param frame: Shape (n_rows, n_columns), its index counts the rows from 0.
    :return: One part per expectation, in their order. Rows are kept of those that set rows apart or look for repeated
        keys.
    """
    engine = PandasExecutionEngine(caching=False)
    calculator = MetricsCalculator(engine, show_progress_bars=False)
    missing = [[column for column in each.columns if column not in frame] for each in expectations]
    able = [index for index, columns in enumerate(missing) if not columns]
    in_stretches = [index for index in able if looks_at(expectations[index]) == "rows"]
    parts: dict[int, Part] = {}
    for group, at_once in (
        (in_stretches, _AT_ONCE),
        ([index for index in able if index not in in_stretches], len(frame)),
    ):
        asked = [_Asked(index, expectations[index]) for index in group]
        parts |= _found(engine, calculator, frame, asked, at_once)
        if again := [each for each in asked if each.failed and len(frame) > at_once]:
            # Great Expectations can stumble over a stretch without any value, and not over all rows.
            again = [_Asked(each.index, each.expectation) for each in again]
            parts |= _found(engine, calculator, frame, again, len(frame))
    return [
        parts[index] if index in parts else _unchecked(f"there is no column {', '.join(missing[index])}")
        for index in range(len(expectations))
    ]


@dataclass(slots=True)
class _Asked:
    """An expectation on its way through the stretches of a frame."""

    index: int
    expectation: Expectation
    ready: Any = None
    wanted: Mapping[str, Any] = field(default_factory=dict)
    """Metrics that Great Expectations concludes from, by their name."""
    edges: list[Any] = field(default_factory=list)
    sums: dict[str, Any] = field(default_factory=dict)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    failed: bool = False

    @property
    def batch(self) -> str:
        """Name of the frame it is asked of: it has its columns only, or all if it does not name them all."""
        if not self.expectation.columns or "row_condition" in self.expectation.kwargs:
            return _ALL
        return "\0".join(sorted(set(self.expectation.columns)))

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Leave out the columns it does not look at: Great Expectations copies whole frames again and again."""
        there = [column for column in frame if self.batch == _ALL or column in self.expectation.columns]
        return frame[there] if 0 < len(there) < frame.shape[1] else frame

    def prepare(self, engine: PandasExecutionEngine, calculator: MetricsCalculator) -> None:
        """Find out what has to be computed for it."""
        try:
            self.ready = _configured(self.expectation, batch_id=self.batch)
            self.wanted = self.ready.get_validation_dependencies(engine, _RUNTIME).metric_configurations
            spared = {*_EXAMPLES} if self._needs_rows else {*_EXAMPLES, _ROWS}
            computed = [each for name, each in self.wanted.items() if _kind(name) not in spared]
            self.edges = calculator.build_metric_dependency_graph(computed, _RUNTIME).edges
        except Exception:  # noqa: BLE001 - Great Expectations raises what its metrics raise; the others are still checked
            self.failed = True

    def add(self, computed: Mapping[Any, Any]) -> None:
        """Add what was computed on one stretch."""
        for name, metric in self.wanted.items():
            kind = _kind(name)
            if kind in _EXAMPLES or (kind == _ROWS and not self._needs_rows):
                continue
            if metric.id not in computed:
                self.failed = True
            elif kind == _ROWS:
                self.rows.append(np.asarray(computed[metric.id], dtype="int64"))
            elif kind in _COUNTS:
                self.sums[name] = self.sums.get(name, 0) + int(computed[metric.id])
            elif name in self.sums and kind not in _OF_THE_FRAME:
                self.failed = True  # nobody knows how to add this one up
            else:
                self.sums[name] = computed[metric.id]

    def concluded(self, engine: PandasExecutionEngine, frame: pd.DataFrame) -> Part:
        """Let Great Expectations conclude from what was added up."""
        kinds = ", ".join(f"{column} is {frame[column].dtype}" for column in self.expectation.columns)
        if self.failed:
            return _unchecked(kinds)
        metrics = {
            metric.id: self.sums.get(name, _EXAMPLES.get(_kind(name), [])) for name, metric in self.wanted.items()
        }
        try:
            found = self.ready.metrics_validate(metrics, dict(_RUNTIME), engine)
        except Exception:  # noqa: BLE001 - as in `prepare`
            self.failed = True
            return _unchecked(kinds)
        result = found.result or {}
        if not {"element_count", "unexpected_count"} <= result.keys():
            observed = "as expected" if found.success else _observed(self.expectation, result)
            return Part(True, bool(found.success), None, 0, observed)
        considered = int(result["element_count"]) - int(result.get("missing_count") or 0)
        rows = np.concatenate([np.empty(0, "int64"), *self.rows])
        return Part(True, bool(found.success), considered, int(result["unexpected_count"]), "", rows)

    @property
    def _needs_rows(self) -> bool:
        return self.expectation.severity == "quarantine" or self.expectation.type in REPEATED_KEYS


def _found(
    engine: PandasExecutionEngine,
    calculator: MetricsCalculator,
    frame: pd.DataFrame,
    asked: Sequence[_Asked],
    at_once: int,
) -> dict[int, Part]:
    """Ask the same of each stretch of a frame, and conclude from all of them."""
    graph: ValidationGraph | None = None
    for stretch in _stretches(frame, at_once):
        for batch in {each.batch: each for each in asked}.values():
            engine.load_batch_data(batch.batch, batch.of(stretch))
        if graph is None:
            for each in asked:
                each.prepare(engine, calculator)
            graph = ValidationGraph(engine, [edge for each in asked for edge in each.edges])
        computed, _ = calculator.resolve_validation_graph(graph, _RUNTIME)
        for each in asked:
            each.add(computed)
    parts = {each.index: each.concluded(engine, frame) for each in asked}
    for each in asked:  # the engine is part of a cycle, which would keep the rows until the garbage collector comes by
        engine.load_batch_data(each.batch, pd.DataFrame())
    return parts


def _stretches(frame: pd.DataFrame, at_once: int) -> Iterator[pd.DataFrame]:
    for first in range(0, max(len(frame), 1), max(at_once, 1)):
        yield frame.iloc[first : first + at_once] if len(frame) > at_once else frame


def _kind(name: str) -> str:
    """What a metric counts or lists, without whose metric it is."""
    return name.rpartition(".")[2]


def _unchecked(why: str) -> Part:
    return Part(False, False, None, 0, f"could not be checked{why and f', {why}'}")


def _configured(expectation: Expectation, **where: str) -> Any:
    return ExpectationConfiguration(
        type=expectation.type,
        kwargs={**expectation.kwargs, **where},
        severity=_GX_SEVERITY[expectation.severity],
        description=expectation.meaning,
    ).to_domain_obj()


def _argument_problem(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"] if part != "__root__")
    return f"{name}: {error['msg']}" if name else str(error["msg"])


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

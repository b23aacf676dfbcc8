"""Check a frame against declared expectations: Great Expectations in memory, told to be quiet. Its only importer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlops_provider.adapters.expectations import Expectation, ExpectationsFile, Outcome, Severity, Validation
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
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration  # noqa: E402
from great_expectations.expectations.metadata_types import FailureSeverity  # noqa: E402

_GX_SEVERITY: Mapping[Severity, FailureSeverity] = {
    "block": FailureSeverity.CRITICAL,
    "quarantine": FailureSeverity.WARNING,
    "warn": FailureSeverity.INFO,
}
_OUR_SEVERITY: Mapping[FailureSeverity, Severity] = {theirs: ours for ours, theirs in _GX_SEVERITY.items()}
_REPEATED_KEYS = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")

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
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            progress_bars=ProgressBarsConfig(globally=False),
            analytics_enabled=False,
        ),
    )
    suite = context.suites.add(
        ExpectationSuite("declared", expectations=[_configured(each, index) for index, each in enumerate(expectations)])
    )
    definition = context.data_sources.add_pandas("frame").add_dataframe_asset("frame").add_batch_definition("all")
    result = definition.get_batch({"dataframe": frame}).validate(
        suite, result_format={"result_format": "COMPLETE", "include_unexpected_rows": False}
    )
    # Great Expectations gives results in an order of its own.
    found = {each.expectation_config.meta["index"]: each for each in result.results if each.expectation_config}
    outcomes = tuple(_outcome(each, found[index], frame) for index, each in enumerate(expectations))
    reasons: dict[int, list[str]] = {}
    for outcome in outcomes:
        if outcome.expectation.severity == "quarantine":
            for row in outcome.rows:
                reasons.setdefault(row, []).append(outcome.expectation.meaning)
    rejected = pd.Series({row: reasons[row] for row in sorted(reasons)}, dtype="object", name="reasons")
    rejected.index = rejected.index.astype("int64")
    return Validation(len(frame), outcomes, rejected)


def divide(frame: pd.DataFrame, validation: Validation, *, reasons: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the clean rows, and the rejected ones with a text column *reasons*; together they are all of *frame*."""
    frame = frame.reset_index(drop=True)
    rejected = validation.rejected
    bad = frame.loc[rejected.index].assign(**{reasons: rejected.map("; ".join).astype("object")})
    return frame.drop(index=rejected.index).reset_index(drop=True), bad.reset_index(drop=True)


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


def _outcome(expectation: Expectation, found: Any, frame: pd.DataFrame) -> Outcome:
    missing = [column for column in expectation.columns if column not in frame]
    if missing:
        return Outcome(
            expectation, False, False, None, f"could not be checked, there is no column {', '.join(missing)}"
        )
    result = found.result
    if not result:
        kinds = ", ".join(f"{column} is {frame[column].dtype}" for column in expectation.columns)
        return Outcome(expectation, False, False, None, f"could not be checked{kinds and f', {kinds}'}")
    if "unexpected_index_list" not in result:
        observed = _observed(expectation, result) if not found.success else "as expected"
        return Outcome(expectation, bool(found.success), True, None, observed)
    rows = _kept_apart(expectation, result["unexpected_index_list"], frame)
    return Outcome(expectation, bool(found.success), True, len(rows), _counted(expectation, rows, frame), rows)


def _kept_apart(expectation: Expectation, rows: Sequence[int], frame: pd.DataFrame) -> tuple[int, ...]:
    """Return the rows that break it; of rows with a repeated key only those that are to go."""
    if expectation.type not in _REPEATED_KEYS:
        return tuple(rows)
    key = expectation.kwargs.get("column_list") or [expectation.kwargs["column"]]
    repeated = frame.loc[list(rows)]
    copies = repeated.duplicated(keep="first")
    contradicting = repeated[~copies].duplicated(list(key), keep=False)
    return tuple(sorted([*repeated.index[copies], *contradicting.index[contradicting]]))


def _counted(expectation: Expectation, rows: Sequence[int], frame: pd.DataFrame) -> str:
    share = len(rows) / max(len(frame), 1)
    shown = "less than 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"
    mostly = expectation.kwargs.get("mostly")
    allowed = "" if mostly is None else f", at most {1 - mostly:.1%} may"
    return f"{len(rows):,} of {len(frame):,} rows break it ({shown}{allowed})"


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

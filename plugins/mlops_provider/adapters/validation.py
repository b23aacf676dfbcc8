"""Check a frame against declared expectations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.adapters import checks
from mlops_provider.adapters.expectations import Expectation, ExpectationsFile, Outcome, Part, Validation
from mlops_provider.checked_yaml import Document, Problem
from mlops_provider.exceptions import SpecError


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
        if problem := checks.problem_of(expectation):
            where, what = problem
            problems.append(((*place, where), f"{what}." if where == "type" else what))
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
        if problem := checks.problem_of(expectation):
            raise SpecError(f"{path}: expectation {index + 1}, {expectation.type}: {problem[1]}")
    return found


def _of_suite(declared: Mapping[str, Any]) -> Expectation:
    kwargs = {name: value for name, value in (declared.get("kwargs") or {}).items() if name != "batch_id"}
    about = ", ".join(str(kwargs[name]) for name in ("column", "column_A", "column_B", "column_list") if name in kwargs)
    words = str(declared["type"]).removeprefix("expect_").replace("_", " ")
    meaning = declared.get("description") or (f"{about}: {words}" if about else words)
    severity = checks.severity_of(declared.get("severity"))
    return Expectation(type=declared["type"], kwargs=kwargs, severity=severity, meaning=meaning)


def validate(frame: pd.DataFrame, expectations: Sequence[Expectation]) -> Validation:
    """
    Check every expectation on *frame*.

    Rows with the same key are told apart: of exact copies the first is kept, rows that contradict each other all go.

    :param frame: Shape (n_rows, n_columns); the index is not looked at.
    """
    frame = frame.reset_index(drop=True)
    parts = [
        told_apart(each, part, frame.loc[part.rows]) if each.type in checks.REPEATED_KEYS else part
        for each, part in zip(expectations, checks.checked(frame, expectations), strict=True)
    ]
    return concluded(expectations, parts, total=len(frame))


def divide(frame: pd.DataFrame, validation: Validation, *, reasons: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the clean rows, and the rejected ones with a text column *reasons*; together they are all of *frame*."""
    frame = frame.reset_index(drop=True)
    rejected = validation.rejected
    bad = frame.loc[rejected].assign(**{reasons: validation.reasons(rejected)})
    return frame.drop(index=pd.Index(rejected)).reset_index(drop=True), bad.reset_index(drop=True)


def told_apart(expectation: Expectation, part: Part, repeated: pd.DataFrame) -> Part:
    """
    Of rows with a repeated key keep only those that are to go.

    :param repeated: The part's rows, with all columns and their positions as index.
    """
    if part.considered is None:
        return part
    copies = repeated.duplicated(keep="first")
    contradicting = repeated[~copies].duplicated(list(expectation.columns), keep=False)
    rows = np.sort(np.concatenate([repeated.index[copies], contradicting.index[contradicting]])).astype("int64")
    return dataclasses.replace(part, rows=rows)


def concluded(expectations: Sequence[Expectation], parts: Sequence[Part], *, total: int) -> Validation:
    """
    Say what follows from all parts.

    :param parts: One per expectation, in their order, over all rows.
    :param total: Rows there are.
    """
    outcomes = []
    for expectation, part in zip(expectations, parts, strict=True):
        if part.considered is None:
            outcomes.append(Outcome(expectation, part.met, part.checked, None, part.observed))
            continue
        failing = len(part.rows) if expectation.type in checks.REPEATED_KEYS else part.breaking
        rows: NDArray[np.int64] = part.rows if expectation.severity == "quarantine" else part.rows[:0]
        outcomes.append(Outcome(expectation, part.met, True, failing, _counted(expectation, failing, total), rows))
    return Validation(total, tuple(outcomes))


def _counted(expectation: Expectation, failing: int, total: int) -> str:
    share = failing / max(total, 1)
    shown = "less than 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"
    mostly = expectation.kwargs.get("mostly")
    allowed = "" if mostly is None else f", at most {1 - mostly:.1%} may"
    return f"{failing:,} of {total:,} rows break it ({shown}{allowed})"

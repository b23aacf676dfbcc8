"""What data should be and how it did: the vocabulary of validation, without the library that checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mlops_provider.checked_yaml import Document

Severity = Literal["block", "quarantine", "warn"]

NOT_REVIEWED = "not reviewed"
"""What a suite is called that was inferred and that nobody has signed."""


class Expectation(BaseModel):
    """
    One thing a frame must be.

    :param type: Great Expectations' name of it, such as ``expect_column_values_to_be_between``.
    :param kwargs: Its arguments. ``mostly`` is the share of rows, 0-1, that must keep it.
    :param severity: What happens otherwise. "block": the frame is refused. "quarantine": rows that break it are set
        apart; if fewer than ``mostly`` keep it (and ``mostly`` is given), the frame is refused. "warn": it is said.
    :param meaning: What it says, in a person's words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: str = Field(pattern="^expect_")
    kwargs: dict[str, Any] = Field(default_factory=dict)
    severity: Severity
    meaning: str = Field(min_length=1)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it looks at; none if it is about the table."""
        single = (self.kwargs.get(name) for name in ("column", "column_A", "column_B"))
        return (*(name for name in single if name), *self.kwargs.get("column_list", ()))


class Review(BaseModel):
    """A person's word that they read a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    by: str = Field(min_length=1)
    at: date

    def __str__(self) -> str:
        return f"reviewed by {self.by} on {self.at.isoformat()}"


def _signature(given: Any) -> Any:
    if given is None or given is False or isinstance(given, Review | dict):
        return given
    raise ValueError("expected who read it and when, such as {by: your name, at: 2026-01-31}; or false: nobody did.")


class ExpectationsFile(BaseModel):
    """
    What an ``expectations.yaml`` holds.

    :param reviewed: False in a suite that was inferred, until a person writes who they are and when they read it; a
        suite that people wrote need not say.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    reviewed: Annotated[Review | Literal[False] | None, BeforeValidator(_signature)] = None
    expectations: list[Expectation] = Field(min_length=1)


def load_review(path: Path) -> Literal[False] | Review | None:
    """
    Read who reviewed a suite: a person, False if it waits for one, None if it does not say.

    :raises SpecError: The file is no suite. Not retried.
    """
    return Document(path).check(ExpectationsFile).reviewed


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a frame did on one expectation.

    :param met: False also if it could not be checked.
    :param checked: False if a column it needs is missing, or it broke on what it found.
    :param failing: Rows that break it; None if it is about the table.
    :param observed: What was found instead, in words that hold no value of a row.
    :param rows: Positions of the failing rows, rising; only of an expectation that sets rows apart.
    """

    expectation: Expectation
    met: bool
    checked: bool
    failing: int | None
    observed: str
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, "int64"), repr=False, compare=False)

    @property
    def blocks(self) -> bool:
        """It forbids to go on."""
        severity = self.expectation.severity
        refused = severity == "block" or (
            severity == "quarantine"
            and (not self.checked or self.failing is None or "mostly" in self.expectation.kwargs)
        )
        return refused and not self.met

    @property
    def standing(self) -> Literal["refused", "set apart", "warned", "met"]:
        """What follows from it, in a word or two."""
        if self.blocks:
            return "refused"
        if self.expectation.severity == "quarantine" and self.failing:
            return "set apart"
        return "met" if self.met else "warned"

    @property
    def sentence(self) -> str:
        """What was expected and what was found, in one line."""
        return f"{self.expectation.meaning} ({self.expectation.type}): {self.observed}"

    def as_json(self) -> dict[str, Any]:
        """What the ledger keeps of it."""
        return {
            "type": self.expectation.type,
            "columns": list(self.expectation.columns),
            "severity": self.expectation.severity,
            "meaning": self.expectation.meaning,
            "met": self.met,
            "checked": self.checked,
            "failing": self.failing,
            "observed": self.observed,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """
    How some of the rows did on one expectation, to be added up with the others.

    :param checked: False if a column it needs is missing, or it broke on what it found.
    :param met: What Great Expectations says of these rows alone.
    :param considered: Rows that ``mostly`` is a share of; None if it is about the table.
    :param breaking: Rows that break it.
    :param observed: What was found instead, if it is about the table.
    :param rows: Positions of the rows that are to go.
    """

    checked: bool
    met: bool
    considered: int | None
    breaking: int
    observed: str
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, "int64"), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Keys:
    """
    The keys of a chunk's rows, without the rows that are left out because of missing values.

    :param hashes: A hash per key, rising.
    :param positions: Row of the chunk that each belongs to.
    """

    hashes: NDArray[np.uint64]
    positions: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Findings:
    """
    How one chunk did on the expectations that look at one row at a time.

    :param start: Row of the whole that is the chunk's first.
    :param parts: Per expectation, by its index.
    :param keys: Per expectation about keys, by its index.
    """

    start: int
    parts: Mapping[int, Part]
    keys: Mapping[int, Keys]


class WholeRows(Protocol):
    """The rows that were cut into chunks, for what can be told of all of them only."""

    def __len__(self) -> int: ...

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""

    def frame(self, start: int = 0, stop: int | None = None, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows from *start* to before *stop*."""

    def take(self, positions: NDArray[np.int64], *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows at *positions*, which rise."""

    def values(self, column: str) -> pd.Series[Any]:
        """One column."""


@dataclass(frozen=True)
class Validation:
    """
    How a frame did on all of them.

    :param total: Rows of the frame.
    :param outcomes: In the order of the expectations.
    """

    total: int
    outcomes: tuple[Outcome, ...]

    @cached_property
    def rejected(self) -> NDArray[np.int64]:
        """Positions of the rows that are set apart, rising."""
        set_apart = [outcome.rows for outcome in self.outcomes if outcome.expectation.severity == "quarantine"]
        return np.unique(np.concatenate([np.empty(0, "int64"), *set_apart]))

    def reasons(self, rejected: NDArray[np.int64]) -> NDArray[np.object_]:
        """Say why each of these *rejected* rows, by rising position, is set apart; several reasons by semicolons."""
        found = np.full(len(rejected), "", dtype=object)
        for outcome in self.outcomes:
            if outcome.expectation.severity == "quarantine" and len(outcome.rows):
                also = np.isin(rejected, outcome.rows, assume_unique=True)
                found[also] = np.where(found[also] == "", "", found[also] + "; ") + outcome.expectation.meaning
        return found

    @cached_property
    def blocking(self) -> tuple[str, ...]:
        """Why the frame is refused, one sentence each; none if it is not."""
        reasons = [outcome for outcome in self.outcomes if outcome.blocks]
        # What could not be checked is a consequence of what failed: name it only if nothing else explains it.
        reasons = [outcome for outcome in reasons if outcome.checked] or reasons
        if not reasons and self.total and len(self.rejected) == self.total:
            return (f"Each of the {self.total:,} rows breaks an expectation that sets rows apart",)
        return tuple(outcome.sentence for outcome in reasons)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know, one sentence each."""
        return tuple(outcome.sentence for outcome in self.outcomes if outcome.standing == "warned")

    @property
    def quarantined(self) -> tuple[str, ...]:
        """What rows were set apart for, one sentence each."""
        return tuple(outcome.sentence for outcome in self.outcomes if outcome.standing == "set apart")

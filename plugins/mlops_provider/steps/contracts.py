"""What a use case's functions promise, tried on real rows before anything is built on it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from mlops_provider.adapters import features as feature_frames
from mlops_provider.adapters import training
from mlops_provider.adapters import validation as validations
from mlops_provider.core import partitions
from mlops_provider.exceptions import BrokenContractError, DataRejectedError, MLOpsError, SpecError
from mlops_provider.steps import history
from mlops_provider.steps.source import last_line, parts_of, read_landing
from mlops_provider.stores.suite import Stores

if TYPE_CHECKING:
    from mlops_provider.spec import FunctionName, ModelSpec


_DELIVERED: tuple[Literal["land", "outcomes"], ...] = ("land", "outcomes")
"""Functions that are given what is delivered, where a source is declared for them."""
CUTS = (0.25, 0.5, 0.75)
"""Shares of the rows, in the order of time, after which the future is cut off or changed."""
RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Differences between two numbers that are rounding: sums over other rows round otherwise."""

_SAYS_NO_VALUE = (AttributeError, ImportError, KeyError, NameError, TypeError)
"""Errors whose message names columns, attributes and types; those of others often quote the value they choked on."""


def arguments_of(spec: ModelSpec) -> Mapping[FunctionName, tuple[str, ...]]:
    """What each function of a use case is called with, in this order."""
    delivered = {name: ("frame",) if spec.source(name) else () for name in _DELIVERED}
    found: dict[FunctionName, tuple[str, ...]] = {
        "land": ("key", "part") if spec.functions.parts else ("key", *delivered["land"]),
        "features": ("frame", "history", "as_of"),
        "outcomes": ("key", *delivered["outcomes"]),
        "estimator": ("params",),
        "space": ("trial",),
    }
    found |= {"parts": ("key",)} if spec.functions.parts else {}
    return found | ({"history": ("rows", "kept")} if spec.functions.history else {})


def check_signatures(spec: ModelSpec) -> None:
    """
    Load every function and see that it takes what it will be called with.

    :raises BrokenContractError: One of them does not.
    :raises SpecError: One is not there, or its file cannot be imported.
    """
    for name, arguments in arguments_of(spec).items():
        where = getattr(spec.functions, name)
        try:
            function = spec.function(name)
        except SpecError:
            raise
        except Exception as error:  # whatever a module does when it is imported
            raise BrokenContractError(f"{where} cannot be imported: {described(error, spec)}") from error
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise BrokenContractError(
                f"{where} takes {inspect.signature(function)}, and is called as "
                f"{function.__name__}({', '.join(arguments)}): {error}."
            ) from error


def described(error: Exception, spec: ModelSpec) -> str:
    """Say where in the use case an error arose, and of which kind it is."""
    own = last_line(spec, error)
    place = f" at {os.path.relpath(own.filename, spec.folder)}:{own.lineno}" if own else ""
    said = f": {error}" if isinstance(error, (MLOpsError, *_SAYS_NO_VALUE)) else ""
    return f"{type(error).__name__}{place}{said}"


@dataclass
class FeatureContract:
    """
    The promises of ``features``, tried on a sample of the second month with the first one as history.

    Each ``check_*`` raises :class:`BrokenContractError` with one sentence. None of them holds a value of a row.

    :param rows: Rows of each month at most, spread evenly.
    """

    spec: ModelSpec
    rows: int

    @property
    def where(self) -> str:
        """The function, as ``model.yaml`` names it."""
        return self.spec.functions.features

    @property
    def month(self) -> str:
        """The month that is tried."""
        return partitions.following(self.spec.first_partition)

    @cached_property
    def earlier(self) -> pd.DataFrame:
        """Clean rows of the first month, (n_rows, n_columns)."""
        return self._clean(self.spec.first_partition)

    @cached_property
    def history(self) -> pd.DataFrame:
        """What features are given of them, (n_rows, n_columns)."""
        return self._gathered([self.earlier])

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Clean rows of the second month, (n_rows, n_columns)."""
        return self._clean(self.month)

    @cached_property
    def computed(self) -> pd.DataFrame:
        """Their features, (n_rows, n_columns), by key."""
        return self._call(self.frame)

    def check_declared_columns(self) -> None:
        """It gives what ``model.yaml`` declares: columns, types, one row per row, keys, times within the month."""
        spec, zone = self.spec, ZoneInfo(self.spec.time_zone)
        start, end = (moment.replace(tzinfo=zone).astimezone(UTC) for moment in self._span())
        try:
            checked = feature_frames.checked_features(
                self._raw_call(self.frame.copy(), self.history.copy()),
                spec,
                self.month,
                rows=len(self.frame),
                start=start,
                end=end,
            )
        except DataRejectedError as error:
            raise BrokenContractError(f"{self.where}: {error}") from error
        if empty := [column for column in spec.feature_columns if checked[column].isna().all()]:
            raise BrokenContractError(f"{self.where} gives no value at all in {', '.join(map(repr, empty))}.")

    def check_inputs_are_left_alone(self) -> None:
        """It changes neither of the frames it is given."""
        for name, before in (("frame", self.frame), ("history", self.history)):
            frames = {"frame": self.frame.copy(), "history": self.history.copy()}
            self._raw_call(frames["frame"], frames["history"])
            changed = _changed_columns(before, frames[name])
            if changed:
                raise BrokenContractError(
                    f"{self.where} changes its argument {name!r} ({', '.join(changed[:10])}): work on a copy, such as "
                    f"{name}.assign(…)."
                )

    def check_deterministic(self) -> None:
        """The same rows give the same features."""
        self._compare(self._call(self.frame), "when it is called again with the same rows", "Seed what is random.")

    def check_history_adds_up(self) -> None:
        """The history is the same however the rows before were parted, in whatever order the parts came."""
        first, second, third = (self.earlier.iloc[number::3] for number in range(3))
        for parts in ([first, second, third], [third, self.earlier.head(0), second, first]):
            computed = self._call(self.frame, self._gathered([part.reset_index(drop=True) for part in parts]))
            self._compare(
                computed,
                "when the rows before them come in other parts",
                f"{self.spec.functions.history} has to give the same however the rows are parted.",
            )

    def check_no_future(self) -> None:
        """Rows do not change when later ones are removed or altered: they can't know what had not happened yet."""
        advice = "It reads the future: use only rows before each row's own time."
        times = self.computed[self.spec.event_time]
        order = np.argsort(times.to_numpy(), kind="stable")
        for share in CUTS:
            last = times.iloc[order[max(0, int(len(order) * share) - 1)]]
            known = (times <= last).to_numpy()[self._positions]
            for what, frame in (
                ("removed", self.frame[known]),
                ("altered", _altered(self.frame, ~known, keep=(*self.spec.keys, self.spec.event_time))),
            ):
                changed = self._call(frame.reset_index(drop=True))
                self._compare(changed, f"when later rows are {what}", advice, until=last)

    @cached_property
    def _positions(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """For each row of the frame, the place of its features."""
        if not set(self.spec.keys) <= set(self.frame.columns):
            return np.arange(len(self.frame))
        wanted = pd.MultiIndex.from_frame(self.frame[list(self.spec.keys)])
        found = self.computed.index.get_indexer(wanted)
        return np.where(found < 0, np.arange(len(self.frame)), found)

    def _compare(self, again: pd.DataFrame, when: str, advice: str, *, until: Any = None) -> None:
        expected = self.computed
        if until is not None:
            expected = expected[expected[self.spec.event_time] <= until]
        found = again.reindex(expected.index)
        if missing := int(len(expected) - expected.index.isin(again.index).sum()):
            raise BrokenContractError(f"{self.where} loses {missing:,} of {len(expected):,} rows {when}. {advice}")
        columns = list(self.spec.feature_columns)
        differs = pd.DataFrame({name: _differs(expected[name], found[name]) for name in columns})
        rows = np.flatnonzero(differs.any(axis=1))
        if not len(rows):
            return
        by_rows = differs.sum().sort_values(ascending=False, kind="stable")
        named = ", ".join(repr(name) for name in by_rows.index[by_rows > 0][:10])
        row = int(self.computed.index.get_indexer(expected.index[rows[:1]])[0]) + 1
        more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
        raise BrokenContractError(
            f"{self.where} changes row {row} of {len(self.computed):,}{more} (column {named}) {when}. {advice}"
        )

    def _gathered(self, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
        try:
            return history.gathered(self.spec, [part.copy() for part in parts])
        except Exception as error:  # whatever the function raises
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise BrokenContractError(f"{self.spec.functions.history} fails: {described(cause, self.spec)}") from error

    def _call(self, frame: pd.DataFrame, known: pd.DataFrame | None = None) -> pd.DataFrame:
        """Features of *frame*, by key."""
        computed = self._raw_call(frame.copy(), (self.history if known is None else known).copy())
        wanted = [*self.spec.keys, self.spec.event_time, *self.spec.feature_columns]
        if missing := [name for name in wanted if name not in computed]:
            raise BrokenContractError(f"{self.where} does not give the column {', '.join(map(repr, missing))}.")
        keys = list(self.spec.keys)
        return computed.set_index(pd.MultiIndex.from_frame(computed[keys].reset_index(drop=True)))

    def _raw_call(self, frame: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
        end = self._span()[1].replace(tzinfo=ZoneInfo(self.spec.time_zone)).astimezone(UTC)
        try:
            return feature_frames.frame_of(self.spec.function("features")(frame, history, end), self.where)
        except Exception as error:  # whatever the function raises
            raise BrokenContractError(f"{self.where} fails: {described(error, self.spec)}") from error

    def _span(self) -> tuple[datetime, datetime]:
        return partitions.start(self.month), partitions.end(self.month)

    def _clean(self, month: str) -> pd.DataFrame:
        land, spec = self.spec.functions.land, self.spec
        try:
            given = [read_landing(spec, Stores(), month, part) for part in parts_of(spec, month) or (None,)]
            frames = [frame for each in given for frame in ([each] if isinstance(each, pd.DataFrame) else each)]
            rows = sampled(pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0], self.rows)
        except Exception as error:  # whatever the function raises
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise BrokenContractError(f"{land} fails for {month}: {described(cause, spec)}") from error
        checked = validations.validate(rows, validations.load_expectations(self.spec.expectations_path))
        if checked.blocking:
            raise BrokenContractError(f"{land} {month}: {'; '.join(checked.blocking[:10])}")
        return validations.divide(rows, checked, reasons="reasons")[0].reset_index(drop=True)


def check_estimator(spec: ModelSpec) -> None:
    """
    See that ``space`` gives parameters, and ``estimator`` a new, unfitted scikit-learn estimator for them each time.

    :raises BrokenContractError: They do not.
    """
    try:
        problem = training.estimator_problem(
            spec.function("estimator"), spec.function("space"), task=spec.target.task, seed=spec.seed
        )
    except Exception as error:  # whatever the functions raise
        raise BrokenContractError(
            f"{spec.functions.estimator} or {spec.functions.space} fails: {described(error, spec)}"
        ) from error
    if problem:
        raise BrokenContractError(f"{getattr(spec.functions, problem[0])} {problem[1]}")


def sampled(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Take at most about *rows* rows of a month, evenly spread, in their order."""
    return frame.iloc[:: max(1, len(frame) // rows)].reset_index(drop=True)


def sampling(land: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """A ``land`` that gives about *rows* rows; of each frame, if it gives one after the other."""

    def less(*about: Any) -> Any:
        given = land(*about)
        return (sampled(frame, rows) for frame in given) if isinstance(given, Iterator) else sampled(given, rows)

    return less


def _altered(frame: pd.DataFrame, later: np.ndarray[Any, Any], *, keep: tuple[str, ...]) -> pd.DataFrame:
    """The same rows, but those that are *later* swap their values; types and columns stay."""
    changed = frame.copy()
    places = np.flatnonzero(later)
    order = np.arange(len(frame))
    order[places] = places[::-1]
    for name in frame.columns.difference(list(keep)):
        changed[name] = frame[name].take(order).set_axis(frame.index)
    return changed


def _differs(before: pd.Series[Any], after: pd.Series[Any]) -> np.ndarray[Any, Any]:
    """Where two columns differ by more than rounding; two missing values are equal."""
    missing = before.isna().to_numpy() & after.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(before) and pd.api.types.is_numeric_dtype(after):
        left, right = (column.to_numpy(dtype="float64", na_value=np.nan) for column in (before, after))
        equal = np.isclose(left, right, rtol=RELATIVE, atol=ABSOLUTE)
    else:
        equal = np.asarray(before.to_numpy() == after.to_numpy(), dtype=bool)
    different: np.ndarray[Any, Any] = np.logical_not(equal | missing)
    return different


def _changed_columns(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    if list(before.columns) != list(after.columns):
        return sorted(map(str, set(before.columns) ^ set(after.columns))) or ["the order of its columns"]
    if not before.index.equals(after.index):
        return ["its index"]
    return [str(name) for name in before.columns if not before[name].equals(after[name])]

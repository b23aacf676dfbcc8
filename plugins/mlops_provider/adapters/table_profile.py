"""What a table's columns are and what a model may make of them: guesses, each with its reason."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sklearn.model_selection import cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlops_provider.adapters.table_columns import (
    HAPPENED,
    Column,
    Kind,
    Role,
    band_limits,
    column_of,
    converted,
    is_whole,
    listed,
    missing_words,
    our_names,
    share,
    shown_value,
)
from mlops_provider.adapters.table_sample import TableSample
from mlops_provider.core import partitions
from mlops_provider.core.tasks import BINARY, REGRESSION
from mlops_provider.exceptions import ConfigurationError

MOST_CATEGORIES = 100
"""Different values that a feature of categories may have."""
ALMOST_PERFECT = 0.98
"""AUC, or share of the variance, from which a single column predicts too well to be true."""
_LEAK_ROWS = 20_000
_FEW_ROWS = 40
_IDENTIFIER = re.compile(r"(^|_)(id|ids|uuid|guid|key|no|nr|num|number|code|index|idx|row|rownames|serial|ref)(_|$)")
_PEOPLE = re.compile(
    r"(^|_)(sex|gender|race|ethnic\w*|nationality|native_country|religion|age|disab\w*|marital\w*|pregnan\w*)(_|$)"
)
_POSITIVE = ("1", "yes", "true", "y", "t", "positive", "bad", "default", "churn", "fraud")
_BATCHES = (3, 6)
_BATCH_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Choices:
    """
    What a person says; what they leave out is inferred.

    :param predictions: Columns that hold predictions of the target already.
    """

    target: str
    task: str = ""
    positive: str = ""
    keys: tuple[str, ...] = ()
    event_time: str = ""
    time_zone: str = "UTC"
    protected: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """
    What was found.

    :param task: "binary" or "regression".
    :param classes: Of a binary target, the value that becomes 0 and the one that becomes 1, as the file writes them;
        the first is None if 0 stands for every other value.
    :param months: Months with rows, and how many of the rows looked at.
    :param dealt: The file has no time: the rows are dealt to *months*.
    :param missing_words: Words of the file that mean "no value".
    :param warnings: What to look at first, one sentence each.
    """

    sample: TableSample
    columns: tuple[Column, ...]
    task: str
    classes: tuple[Any, Any] | None
    keys: tuple[str, ...]
    months: pd.Series[int]
    dealt: bool
    missing_words: tuple[str, ...]
    warnings: tuple[str, ...]

    def of(self, *roles: Role) -> list[Column]:
        """Columns with one of these roles."""
        return [column for column in self.columns if column.role in roles]

    @property
    def target(self) -> Column:
        """What is predicted."""
        return self.of("target")[0]

    @property
    def event_time(self) -> Column | None:
        """When a row's prediction is made; None if the file does not say."""
        found = self.of("event time")
        return found[0] if found else None


def profile(sample: TableSample, choices: Choices) -> Profile:
    """
    Look at every column of a sample and decide what becomes of it.

    :raises ConfigurationError: A column that was named is not there, or can't be what it was named for. Not retried.
    """
    return _Look(sample, choices).profile()


class _Look:
    def __init__(self, sample: TableSample, choices: Choices) -> None:
        self.sample = sample
        self.choices = choices
        self.names = our_names(list(sample.frame))
        self.words = missing_words(sample)
        frame = sample.frame.rename(columns=self.names)
        if self.words:
            texts = frame.select_dtypes("object").columns
            frame[texts] = frame[texts].mask(frame[texts].isin(self.words))
        self.columns = {self.names[source]: column_of(frame, source, self.names[source]) for source in self.names}
        self.frame = pd.DataFrame({name: converted(frame[name], each) for name, each in self.columns.items()})
        self.warnings: list[str] = []

    def profile(self) -> Profile:
        target = self.named(self.choices.target, "--target")
        task, classes, why = self.task(target)
        self.take(target, "target", why)
        time = self.event_time()
        keys = self.keys(time)
        for name in self.choices.protected:
            self.protect(self.named(name, "--protected"))
        for name in self.choices.predictions:
            self.predicted(self.named(name, "--prediction"))
        labels = self.labels(target, task, classes)
        for name, column in self.columns.items():
            if column.role == "left out" and not column.why:
                self.columns[name] = self.judged(column, time, labels, task)
        months = self.months(time)
        self.look_back(keys, months)
        return Profile(
            sample=self.sample,
            columns=tuple(self.columns.values()),
            task=task,
            classes=classes,
            keys=keys,
            months=months,
            dealt=not time,
            missing_words=self.words,
            warnings=tuple(self.warnings),
        )

    def named(self, said: str, option: str) -> str:
        """The column that a person means, by its name in the file or ours."""
        if said in self.names:
            return self.names[said]
        if said in self.columns:
            return said
        there = ", ".join(map(str, self.names))
        raise ConfigurationError(f"{option}: there is no column {said!r} in {self.sample.path.name}. It has {there}.")

    def take(self, name: str, role: Role, why: str, **changes: Any) -> None:
        if (before := self.columns[name].role) != "left out":
            raise ConfigurationError(f"{self.columns[name].source!r} can't be both {before} and {role}.")
        self.columns[name] = dataclasses.replace(self.columns[name], role=role, why=why, **changes)

    # -- the target

    def task(self, name: str) -> tuple[str, tuple[Any, Any] | None, str]:
        """Kind of target, its two classes if it has two, and why."""
        column, values = self.columns[name], self.frame[name].dropna()
        asked, kinds = self.choices.task, values.value_counts()
        if len(kinds) < 2:
            raise ConfigurationError(
                f"The target {column.source!r} has {len(kinds)} different value(s): nothing to learn."
            )
        if column.missing:
            self.warnings.append(
                f"{share(column.missing)} of the rows have no {column.source!r}: they are scored, not learned from."
            )
        numeric = column.kind == "number"
        if asked == REGRESSION.name or (not asked and numeric and len(kinds) > 2 and not self.choices.positive):
            if not numeric:
                raise ConfigurationError(
                    f"--task regression: the target {column.source!r} holds {column.kind}, no numbers."
                )
            if not asked and len(kinds) <= 10:
                self.warnings.append(
                    f"{column.source!r} has only {len(kinds)} different numbers. If they are classes, ask for "
                    "one: --positive VALUE."
                )
            return REGRESSION.name, None, "asked for" if asked else f"{len(kinds):,} different numbers"
        return BINARY.name, *self.classes(column, kinds)

    def classes(self, column: Column, kinds: pd.Series[int]) -> tuple[tuple[Any, Any], str]:
        """The value that is 0 and the one that is 1, as the reader gives them."""
        values = list(kinds.index)
        shown = {shown_value(value): value for value in values}
        said = self.choices.positive
        if said:
            if said not in shown:
                raise ConfigurationError(f"--positive {said!r} is no value of {column.source!r}: {listed(shown)}.")
            one, why = shown[said], "asked for"
        elif len(values) > 2:
            raise ConfigurationError(
                f"The target {column.source!r} has {len(values):,} different values ({listed(shown)}): a model tells "
                "two classes apart. Say which from all others: --positive VALUE."
            )
        elif found := next((each for each in shown if each.lower() in _POSITIVE), None):
            one, why = shown[found], "by its name"
        else:
            one, why = kinds.index[-1], "the rarer one"
        others = [value for value in values if value != one]
        zero = others[0] if len(others) == 1 else None
        share = kinds[one] / kinds.sum()
        zeros = shown_value(zero) if zero is not None else f"any other of {len(others)}"
        return (zero, one), f"1 is {shown_value(one)} ({why}, {share:.1%} of the rows), 0 is {zeros}"

    def labels(self, name: str, task: str, classes: tuple[Any, Any] | None) -> pd.Series[Any]:
        values = self.frame[name]
        if classes is None:
            return pd.Series(values.dropna())
        return pd.Series((values.dropna() == classes[1]).astype("int64"))

    # -- time and keys

    def event_time(self) -> str:
        """Name of the column with the time of a prediction; empty if there is none."""
        if said := self.choices.event_time:
            name = self.named(said, "--event-time")
            if self.columns[name].kind != "time":
                raise ConfigurationError(f"--event-time: {said!r} holds {self.columns[name].kind}, no times.")
            self.take(name, "event time", "asked for")
        else:
            times = [each for each in self.columns.values() if each.kind == "time" and each.missing <= 0.05]
            if not times:
                return ""
            times.sort(key=lambda each: (not HAPPENED.search(each.name), each.missing))
            name = times[0].name
            others = ", ".join(repr(each.source) for each in times[1:])
            self.take(name, "event time", "the only time" if not others else "the first of the times")
            if others:
                self.warnings.append(
                    f"{self.columns[name].source!r} was taken as the time of the prediction; {others} could be, too: "
                    "--event-time chooses."
                )
        if missing := self.columns[name].missing:
            self.warnings.append(
                f"{share(missing)} of the rows have no {self.columns[name].source!r}: no month gets them."
            )
        return name

    def keys(self, time: str) -> tuple[str, ...]:
        """Columns that identify a row; none if only its number does."""
        if self.choices.keys:
            keys = tuple(self.named(said, "--keys") for said in self.choices.keys)
            if repeated := int(self.frame.duplicated(list(keys)).sum()):
                self.warnings.append(
                    f"{repeated:,} rows repeat the key of another ({', '.join(keys)}): the first of exact copies "
                    "stays, the others go to quarantine."
                )
            why = "asked for"
        else:
            keys, why = self.unique(time), "no two rows share it"
            if len(keys) > 1:
                why = f"no two rows share all of {', '.join(keys)}"
        for name in keys:
            if name == time:
                continue
            column = self.columns[name]
            kind: Kind = "whole" if column.kind == "number" and is_whole(self.frame[name]) else column.kind
            if kind in ("number", "flag"):
                raise ConfigurationError(
                    f"--keys: {column.source!r} holds {kind}s; a key is text, a whole number or a time."
                )
            self.take(name, "key", why, kind=kind)
        return keys

    def unique(self, time: str) -> tuple[str, ...]:
        """The first column, or columns with the event time among them, that no two rows share."""
        whole = [
            each
            for each in self.columns.values()
            if each.role == "left out" and not each.missing and each.distinct > 1 and self.could_identify(each)
        ]
        whole.sort(key=lambda each: not _IDENTIFIER.search(each.name))
        rows = len(self.frame)
        for column in whole:
            if column.distinct == rows and (column.kind == "text" or _IDENTIFIER.search(column.name)):
                return (column.name,)
        if not time:
            return ()
        for more in range(3):
            for others in itertools.combinations([each.name for each in whole if each.kind != "time"][:8], more):
                if not self.frame.duplicated([*others, time]).any():
                    return (*others, time)
        return ()

    def could_identify(self, column: Column) -> bool:
        if column.kind == "text":
            return True
        return column.kind == "number" and bool(_IDENTIFIER.search(column.name)) and is_whole(self.frame[column.name])

    def predicted(self, name: str) -> None:
        if self.columns[name].kind != "number":
            raise ConfigurationError(
                f"--prediction: {self.columns[name].source!r} holds {self.columns[name].kind}, no numbers."
            )
        self.take(name, "prediction", "made by a model of yours")

    # -- what a model sees

    def protect(self, name: str) -> None:
        """Keep a column for the fairness report, out of the model's sight."""
        column = self.columns[name]
        bands: tuple[float, ...] = ()
        if column.kind == "time":
            raise ConfigurationError(f"--protected: {column.source!r} holds times; add a column of bands to the file.")
        if column.kind == "number":
            bands = band_limits(self.frame[name])
        elif column.distinct > MOST_CATEGORIES:
            raise ConfigurationError(f"--protected: {column.source!r} has {column.distinct:,} different values.")
        why = "kept to compare groups, not shown to the model" + (" (in bands)" if bands else "")
        self.take(name, "protected", why, bands=bands)

    def judged(self, column: Column, time: str, labels: pd.Series[Any], task: str) -> Column:
        """Feature or not, and why."""
        why = self.unusable(column, time)
        strength = 0.0 if why else _strength(self.frame.loc[labels.index, column.name], labels, task)
        if strength >= ALMOST_PERFECT:
            measure = "AUC" if task == BINARY.name else "R²"
            why = f"alone predicts the target almost perfectly ({measure} {strength:.3f}): known only afterwards?"
            self.warnings.insert(
                0,
                f"{column.source!r} {why} It was left out. If it is known when the prediction is made, add it to "
                "features in model.yaml.",
            )
        if why:
            return dataclasses.replace(column, why=why)
        if _PEOPLE.search(column.name):
            self.warnings.append(
                f"{column.source!r} seems to be about people: may the model use it? --protected {column.source} "
                "compares the groups instead."
            )
        kinds = {"number": "a number", "flag": "0 or 1", "time": "days before the event time"}
        missing = f", {share(column.missing)} missing" if column.missing else ""
        return dataclasses.replace(
            column, role="feature", why=kinds.get(column.kind, f"{column.distinct} categories") + missing
        )

    def unusable(self, column: Column, time: str) -> str:
        """Why a column is no feature; empty if it can be."""
        values = self.frame[column.name].dropna()
        if column.distinct < 2:
            return "one value only" if column.distinct else "no values"
        if column.missing > 0.95:
            return f"{share(column.missing)} missing"
        if column.kind == "text":
            return _unusable_text(column, values)
        if column.kind == "time":
            return self.unusable_time(values, time)
        return _unusable_number(column, values, len(self.frame), time) if column.kind == "number" else ""

    def unusable_time(self, values: pd.Series[Any], time: str) -> str:
        if not time:
            return "a time, but not of the prediction"
        after = (values > self.frame[time].loc[values.index]).mean()
        if after > 0.01:
            return f"{after:.0%} lie after the event time: not known yet when the prediction is made"
        return ""

    # -- months

    def months(self, time: str) -> pd.Series[int]:
        if not time:
            low, high = _BATCHES
            count = min(max(len(self.frame) // _BATCH_ROWS, low), high)
            first = "2025-01"
            each = self.sample.rows // count
            if not self.choices.predictions:
                self.warnings.append(
                    "The file has no dates. Its rows are dealt to months by a hash of their number, so that there are "
                    "months to train and to judge on: no row happened then. Put the real time into data.py if you "
                    "have it."
                )
            return pd.Series(each, index=partitions.between(first, partitions.following(first, count - 1)))
        local = self.frame[time].dropna().dt.tz_convert(self.choices.time_zone)
        counts = local.dt.strftime("%Y-%m").value_counts().sort_index()
        usual = counts.median()
        dense = counts[counts >= 0.1 * usual]
        early = counts[counts.index < dense.index[0]]
        if len(early):
            self.warnings.append(
                f"{int(early.sum()):,} rows lie before {dense.index[0]}, the first month with more than a few: "
                "they are not landed."
            )
        counts = counts[counts.index >= dense.index[0]]
        gaps = set(partitions.between(counts.index[0], counts.index[-1])) - set(counts.index)
        if gaps:
            self.warnings.append(
                f"No rows in {', '.join(sorted(gaps)[:3])}{' and more' if len(gaps) > 3 else ''}: a month without rows "
                "is refused, and the one after waits for it."
            )
        if len(counts) < 3:
            self.warnings.append(
                f"Rows in {len(counts)} month(s) only: one trains, the next judges, a third is served."
            )
        return pd.Series(counts)

    def look_back(self, keys: tuple[str, ...], months: pd.Series[int]) -> None:
        if not keys and not self.choices.predictions:
            self.warnings.append(
                "No column identifies a row, so its number in the file does, as long as rows are only added at the "
                "end. Better: --keys."
            )
        if months.median() < 200:
            self.warnings.append(
                f"About {months.median():.0f} rows a month: intervals will be wide, and the gate will often say that "
                "it can't tell."
            )
        if not any(column.role == "feature" for column in self.columns.values()):
            raise ConfigurationError("No column is left that a model could learn from.")


def _unusable_text(column: Column, values: pd.Series[Any]) -> str:
    if column.distinct <= MOST_CATEGORIES:
        return ""
    if column.distinct > 0.9 * len(values):
        return "an identifier or free text: nearly every row has its own"
    return f"{column.distinct:,} different values: too many to learn from as they are"


def _unusable_number(column: Column, values: pd.Series[Any], rows: int, time: str) -> str:
    if time and column.name in ("year", "month", "day"):
        return "a part of the date: the next month has another one"
    own = column.distinct > 0.95 * rows and rows > _FEW_ROWS and is_whole(values)
    if own and (_IDENTIFIER.search(column.name) or values.is_monotonic_increasing):
        return "a number of the row, not about it"
    return ""


def agreement(found: Profile, prediction: str) -> tuple[str, float]:
    """
    Measure predictions that stand in the table itself.

    :param prediction: Their column.
    :return: ``roc_auc`` of a binary target or ``rmse`` of numbers, and its value.
    :raises ConfigurationError: A binary target is not 0 and 1, or no row has both. Not retried.
    """
    frame = found.sample.frame
    target = found.target
    known = frame[[target.source, prediction]].dropna()
    if not len(known):
        raise ConfigurationError(f"No row has both {target.source!r} and {prediction!r}.")
    if found.classes is None:
        return "rmse", float(((known[target.source] - known[prediction]) ** 2).mean() ** 0.5)
    if target.kind not in ("number", "flag") or not set(known[target.source].astype(float)) == {0.0, 1.0}:
        raise ConfigurationError(f"The gate takes a target of 0 and 1; {target.source!r} holds something else.")
    return "roc_auc", _auc(known[prediction].to_numpy(), known[target.source].astype(int).to_numpy())


def _strength(values: pd.Series[Any], labels: pd.Series[Any], task: str) -> float:
    """
    How well a small tree on this column alone predicts the target on rows it did not see.

    :return: AUC (0.5-1), or share of the variance (up to 1).
    """
    if len(labels) > _LEAK_ROWS:
        labels = labels.sample(_LEAK_ROWS, random_state=0)
        values = values.loc[labels.index]
    if len(labels) < _FEW_ROWS or labels.nunique() < 2:
        return 0.0
    if values.dtype == object:
        values = pd.Series(pd.factorize(values)[0], index=values.index, dtype="float64")
    elif isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.astype("int64").astype("float64")
    known = values.to_frame().fillna(-1e18)
    if task == BINARY.name:
        if labels.value_counts().min() < 3:
            return 0.0
        tree = DecisionTreeClassifier(max_leaf_nodes=32, min_samples_leaf=5, random_state=0)
        predicted = cross_val_predict(tree, known, labels, cv=3, method="predict_proba")[:, 1]
        return _auc(predicted, labels.to_numpy())
    tree = DecisionTreeRegressor(max_leaf_nodes=256, min_samples_leaf=5, random_state=0)
    shuffled = labels.sample(frac=1.0, random_state=0)
    predicted = cross_val_predict(tree, known.loc[shuffled.index], shuffled, cv=3)
    return float(1 - ((predicted - shuffled) ** 2).sum() / ((shuffled - shuffled.mean()) ** 2).sum())


def _auc(predicted: Any, labels: Any) -> float:
    """Area under the ROC curve by ranks (Mann and Whitney 1947)."""
    ranks = pd.Series(predicted).rank().to_numpy()
    ones = int(labels.sum())
    zeros = len(labels) - ones
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))

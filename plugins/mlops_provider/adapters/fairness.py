"""Groups of people: their rates, how far they lie apart, and the features that give them away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mlops_provider.adapters.tasks.base import Draws, Floats, Rows
from mlops_provider.core.fairness import (
    MEASURES,
    MINIMUM_ROWS,
    Disparity,
    FairnessLimit,
    GroupScore,
    Proxy,
    measures_of,
)
from mlops_provider.core.metrics import Interval
from mlops_provider.core.tasks import TargetTask

MISSING = "(missing)"
"""Name of the group whose attribute is not known."""

OTHER = "(other)"
"""Stands for the rare words of a feature that is looked at as a proxy."""

_PROXY_ROWS = 5000
_PROXY_WORDS = 50
_PROXY_FOLDS = 3
_PROXY_GROUP_ROWS = 50  # smaller groups are too few to learn to tell

ToInterval = Callable[[Floats], Interval | None]


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The rows of one group of one attribute."""

    attribute: str
    group: str
    rows: Rows = field(compare=False)

    @property
    def rates_key(self) -> tuple[str, str, str]:
        """Names its rates among everything that is drawn."""
        return (self.attribute, self.group, "rates")

    @property
    def primary_key(self) -> tuple[str, str, str]:
        """Names its primary metric."""
        return (self.attribute, self.group, "primary")


def groups_of(frame: pd.DataFrame, attributes: Sequence[str]) -> list[GroupRows]:
    """Part the rows of *frame* by each attribute, the largest group first; those without a value are one too."""
    found: list[GroupRows] = []
    for attribute in attributes:
        parts = frame.groupby(_named(frame[attribute]), observed=True).indices.items()
        groups = [GroupRows(attribute, str(name), np.asarray(rows, dtype=np.intp)) for name, rows in parts]
        found += sorted(groups, key=lambda each: (-len(each.rows), each.group))
    return found


def group_scores(groups: Mapping[GroupRows, Draws], interval: ToInterval) -> tuple[GroupScore, ...]:
    """Give each group's rates with intervals; a rate that is undefined in it is left out."""
    scores = []
    for each, draws in groups.items():
        measured = {name: interval(values) for name, values in draws.items()}
        known = {name: found for name, found in measured.items() if found is not None}
        scores.append(GroupScore(each.attribute, each.group, len(each.rows), known))
    return tuple(scores)


def disparities(
    groups: Mapping[GroupRows, Draws], task: TargetTask, limits: Sequence[FairnessLimit], interval: ToInterval
) -> tuple[Disparity, ...]:
    """
    Compare, per attribute and measure, the two groups that lie furthest apart on the rows themselves.

    These two are then followed through the resamples, so the interval is that of a named comparison and may pass
    equality. (The largest distance within each resample would lie above zero even between equal groups.)

    :param groups: Draws of the rates of each group.
    :param limits: Limits, for the size from which they compare groups.
    """
    found: list[Disparity] = []
    for attribute in dict.fromkeys(each.attribute for each in groups):
        of_attribute = {each: draws for each, draws in groups.items() if each.attribute == attribute}
        for name in measures_of(task.rates):
            sizes = {
                limit.minimum_rows for limit in limits if limit.measure == name and limit.attribute in (None, attribute)
            }
            for size in sorted(sizes or {MINIMUM_ROWS}):
                large = {each: draws for each, draws in of_attribute.items() if len(each.rows) >= size}
                found += _furthest(attribute, name, large, size, interval)
    return tuple(found)


def _furthest(
    attribute: str, name: str, groups: Mapping[GroupRows, Draws], size: int, interval: ToInterval
) -> Iterator[Disparity]:
    measure = MEASURES[name]
    candidates = []
    whole = {each: draws for each, draws in groups.items() if all(np.isfinite(draws[r][0]) for r in measure.rates)}
    if len(whole) < 2:
        return
    for rate in measure.rates:
        by_rate = sorted(whole, key=lambda each: float(whole[each][rate][0]))
        low, high = whole[by_rate[0]][rate], whole[by_rate[-1]][rate]
        with np.errstate(invalid="ignore", divide="ignore"):
            # Groups that are never selected are selected equally often.
            apart = np.where(high == low, 1.0, low / high) if measure.ratio else high - low
        candidates.append((rate, by_rate[0].group, by_rate[-1].group, apart))
    rate, lowest, highest, apart = max(candidates, key=lambda each: float(each[3][0]))
    if (score := interval(apart)) is not None:
        yield Disparity(attribute, name, rate, lowest, highest, size, score)


def proxies(
    frame: pd.DataFrame,
    attributes: Sequence[str],
    *,
    numeric: Sequence[str],
    categorical: Sequence[str],
    limit: float,
    seed: int,
) -> tuple[Proxy, ...]:
    """
    Name the features that tell a protected attribute, the best first.

    Each feature alone goes into a small decision tree; what it says about rows it was not fitted on is scored by ROC
    AUC, group against the rest, mean over the groups. A sample of fixed size keeps the cost flat.

    :param frame: Attributes and features, (n_rows, n_columns).
    :param limit: ROC AUC from which a feature is named, 0-1.
    """
    rows = frame if len(frame) <= _PROXY_ROWS else frame.sample(n=_PROXY_ROWS, random_state=seed)
    found: list[Proxy] = []
    for attribute in attributes:
        groups = _named(rows[attribute])
        large = groups.value_counts().loc[lambda counts: counts >= _PROXY_GROUP_ROWS].index
        told, those = groups[groups.isin(large)], rows[groups.isin(large)]
        named = []
        if attribute in (*numeric, *categorical):
            named.append(Proxy(attribute, attribute, 1.0))
        for feature in (*numeric, *categorical) if len(large) > 1 else ():
            if feature != attribute:
                auc = _told_by(those[feature], told, words=feature in categorical, seed=seed)
                if auc >= limit:
                    named.append(Proxy(attribute, feature, auc))
        found += sorted(named, key=lambda each: (-each.auc, each.feature))
    return tuple(found)


def _told_by(feature: pd.Series[Any], groups: pd.Series[Any], *, words: bool, seed: int) -> float:
    """ROC AUC of telling the group from one feature; 0.5 if it says nothing."""
    X = _columns_of(_named(feature)) if words else feature.astype("float64").to_frame()
    if X.nunique().max() < 2:
        return 0.5
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=20, random_state=seed)
    folds = StratifiedKFold(_PROXY_FOLDS, shuffle=True, random_state=seed)
    told = cross_val_predict(tree, X.to_numpy(), groups, cv=folds, method="predict_proba")
    if told.shape[1] == 2:
        return float(roc_auc_score(groups, told[:, 1]))
    return float(roc_auc_score(groups, told, multi_class="ovr", average="macro"))


def _columns_of(words: pd.Series[Any]) -> pd.DataFrame:
    """One column per word, of the most frequent ones: what is rare tells few people's group."""
    common = words.value_counts().index[:_PROXY_WORDS]
    return pd.get_dummies(words.where(words.isin(common), OTHER))


def _named(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype("object").where(column.notna(), MISSING).astype(str)

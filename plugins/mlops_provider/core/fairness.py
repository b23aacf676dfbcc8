"""
Fairness between groups of people: what is compared, and whether it keeps its limits.

Differences follow Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning" (2016); demographic parity
compares selection rates, and its ratio is what the four-fifths rule of US employment law asks for (29 CFR 1607.4 D).
For numbers, means are compared instead: of the predictions, of their errors, and of their absolute errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mlops_provider.core.metrics import Interval, apart, number
from mlops_provider.core.payload import Payload

MINIMUM_ROWS = 100
"""Rows below which a group is not compared, where no limit says otherwise."""


@dataclass(frozen=True, slots=True)
class Measure:
    """
    A comparison of groups.

    :param title: As a person writes it.
    :param rates: Rates that are compared; the one that lies furthest apart counts.
    :param ratio: Lowest by highest (1 is equal) instead of highest minus lowest (0 is equal).
    """

    title: str
    rates: tuple[str, ...]
    ratio: bool = False


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "demographic_parity_difference": Measure("Demographic parity difference", ("selection_rate",)),
        "demographic_parity_ratio": Measure("Demographic parity ratio", ("selection_rate",), ratio=True),
        "equal_opportunity_difference": Measure("Equal opportunity difference", ("true_positive_rate",)),
        "equalized_odds_difference": Measure(
            "Equalized odds difference", ("true_positive_rate", "false_positive_rate")
        ),
        "mean_prediction_difference": Measure("Mean prediction difference", ("mean_prediction",)),
        "mean_error_difference": Measure("Mean error difference", ("mean_error",)),
        "mae_difference": Measure("MAE difference", ("mae",)),
    }
)
"""Every measure; one fits a target whose groups are measured by its rates."""

RATES: Mapping[str, str] = MappingProxyType(
    {
        "selection_rate": "selection rate",
        "true_positive_rate": "true positive rate",
        "false_positive_rate": "false positive rate",
        "precision": "precision",
        "mean_prediction": "mean prediction",
        "mean_error": "mean error",
        "mae": "MAE",
    }
)
"""Rates of a group, in words. An error is predicted minus observed."""


def measures_of(rates: Sequence[str]) -> tuple[str, ...]:
    """Return the measures that can be taken where groups have these *rates*."""
    return tuple(name for name, measure in MEASURES.items() if set(measure.rates) <= set(rates))


@dataclass(frozen=True, slots=True)
class FairnessLimit(Payload):
    """
    How far apart groups may lie.

    :param measure: A name of `MEASURES`.
    :param attribute: The protected attribute; None for each one.
    :param minimum: Lowest ratio allowed, 0-1; for ratios only.
    :param maximum: Largest difference allowed, in units of what is compared; for differences only.
    :param minimum_rows: Rows below which a group is too small to judge.
    """

    measure: str
    attribute: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    minimum_rows: int = MINIMUM_ROWS

    def __post_init__(self) -> None:
        measure = MEASURES.get(self.measure)
        if measure is None:
            raise ValueError(f"expected one of {', '.join(MEASURES)}, got {self.measure!r}.")
        needed, other = ("minimum", self.maximum) if measure.ratio else ("maximum", self.minimum)
        if getattr(self, needed) is None or other is not None:
            kind = "ratio is better when more" if measure.ratio else "difference is better when less"
            raise ValueError(f"{self.measure!r} needs a {needed} and nothing else: a {kind}.")


@dataclass(frozen=True, slots=True)
class GroupScore(Payload):
    """
    The candidate on the people of one group.

    :param metrics: Its rates and the primary metric; what the group leaves undefined is missing.
    """

    attribute: str
    group: str
    rows: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Disparity(Payload):
    """
    How far the two groups lie apart that lie furthest apart.

    :param rate: What is compared, a name of `RATES`.
    :param lowest: Group with the lowest rate.
    :param highest: Group with the highest.
    :param minimum_rows: Rows that a group needed to be compared.
    :param score: Difference or ratio of these two groups; as they are fixed, its interval may pass equality.
    """

    attribute: str
    measure: str
    rate: str
    lowest: str
    highest: str
    minimum_rows: int
    score: Interval


@dataclass(frozen=True, slots=True)
class Proxy(Payload):
    """
    A feature that tells a protected attribute.

    :param auc: ROC AUC at telling the groups from this feature alone, 0-1; 1 for the attribute itself.
    """

    attribute: str
    feature: str
    auc: float

    def __str__(self) -> str:
        if self.feature == self.attribute:
            return f"{self.attribute} is itself a feature: the model sees it."
        return f"{self.feature} tells {self.attribute} (ROC AUC {self.auc:.2f} by itself)."


@dataclass(frozen=True, slots=True)
class Fairness(Payload):
    """
    What was measured between groups.

    :param attributes: Protected attributes that were declared; none: fairness was not assessed.
    :param groups: Every group of every attribute, the largest first.
    :param disparities: Per attribute and measure, and per smallest group that a limit asks for.
    :param proxies: Features that give an attribute away.
    """

    attributes: tuple[str, ...] = ()
    groups: tuple[GroupScore, ...] = ()
    disparities: tuple[Disparity, ...] = ()
    proxies: tuple[Proxy, ...] = ()

    def group(self, attribute: str, name: str) -> GroupScore | None:
        """Return one group."""
        return next((each for each in self.groups if (each.attribute, each.group) == (attribute, name)), None)

    def not_judged(self, attribute: str, measure: str, minimum_rows: int) -> tuple[GroupScore, ...]:
        """Return the groups that are too small, or have no rate to compare."""
        rates = MEASURES[measure].rates
        return tuple(
            each
            for each in self.groups
            if each.attribute == attribute and (each.rows < minimum_rows or not set(rates) <= each.metrics.keys())
        )


NOT_ASSESSED = Fairness()
"""What is known where no attribute was declared."""

Finding = tuple[Literal["reason", "warning", "note"], str]


def findings(limits: Sequence[FairnessLimit], fairness: Fairness) -> Iterator[Finding]:
    """Hold what was measured against the limits; what was not measured is said, and never counts as kept."""
    if not fairness.attributes:
        said = "Fairness was not assessed: no protected attributes are declared."
        yield ("reason" if limits else "note", said)
        return
    for limit in limits:
        for attribute in (limit.attribute,) if limit.attribute else fairness.attributes:
            yield from _held(limit, attribute, fairness)
    named = {limit.attribute for limit in limits}
    free = [attribute for attribute in fairness.attributes if not named & {attribute, None}]
    if free:
        yield "note", f"Fairness by {', '.join(free)} is shown in the report and not gated: it has no limit."
    for proxy in fairness.proxies:
        yield "warning", f"Proxy: {proxy}"


def _held(limit: FairnessLimit, attribute: str, fairness: Fairness) -> Iterator[Finding]:
    small = fairness.not_judged(attribute, limit.measure, limit.minimum_rows)
    unjudged = ", ".join(f"{each.group} ({_rows(each.rows)})" for each in small)
    found = next(
        (
            each
            for each in fairness.disparities
            if (each.attribute, each.measure, each.minimum_rows) == (attribute, limit.measure, limit.minimum_rows)
        ),
        None,
    )
    if found is None:
        left = f"; not judged: {unjudged}" if unjudged else ""
        yield (
            "reason",
            (
                f"Fairness by {attribute}: {limit.measure} has a limit but was not measured: it takes two groups of "
                f"{limit.minimum_rows:,} rows or more{left}."
            ),
        )
        return
    yield _compared(limit, found, fairness)
    if unjudged:
        yield (
            "warning",
            (
                f"Fairness by {attribute}: not judged in {limit.measure}, for fewer than {limit.minimum_rows:,} "
                f"rows or for want of a rate: {unjudged}."
            ),
        )


def _compared(limit: FairnessLimit, found: Disparity, fairness: Fairness) -> Finding:
    ratio = limit.minimum is not None
    bound = limit.minimum if limit.minimum is not None else limit.maximum
    if bound is None:
        raise ValueError(f"{limit.measure} has no limit.")  # its constructor sees to it
    sign, side, kept = (-1, "below the minimum", "minimum") if ratio else (+1, "above the maximum", "maximum")
    shown, limit_shown = apart(found.score.value, bound)
    groups = (_group(name, found, fairness) for name in (found.lowest, found.highest))
    who = f"{RATES[found.rate]} {' against '.join(groups)}"
    interval = f"interval {number(found.score.low)} to {number(found.score.high)}"
    worst = found.score.low if ratio else found.score.high
    start = f"Fairness by {found.attribute}: {found.measure} {shown}"
    if (found.score.value - bound) * sign > 0:
        return "reason", f"{start} is {side} {limit_shown} ({interval}): {who}."
    if (worst - bound) * sign > 0:
        return "warning", f"{start} could be {side} {limit_shown} ({interval}): {who}."
    return "note", f"{start} keeps the {kept} {limit_shown} ({interval}): {who}."


def _group(name: str, found: Disparity, fairness: Fairness) -> str:
    group = fairness.group(found.attribute, name)
    if group is None or found.rate not in group.metrics:
        return name
    return f"{number(group.metrics[found.rate].value)} of {name} ({_rows(group.rows)})"


def _rows(rows: int) -> str:
    return f"{rows:,} row" if rows == 1 else f"{rows:,} rows"

"""What was measured about a candidate and its opponents, on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlops_provider.core.fairness import NOT_ASSESSED, Fairness
from mlops_provider.core.metrics import Interval
from mlops_provider.core.payload import Payload
from mlops_provider.core.references import TableRef
from mlops_provider.core.tasks import BINARY

CANDIDATE = "candidate"
CHAMPION = "champion"
PARENT = "parent"
"""The model of all segments, of which a candidate of segments is made; answers where no child does."""


@dataclass(frozen=True, slots=True)
class Contender(Payload):
    """
    One model in the comparison: "candidate", "champion", or a baseline's name.

    :param version: Its registered version; None for what is not registered, empty for a champion that is not.
    """

    name: str
    version: str | None
    metrics: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Comparison(Payload):
    """
    Candidate against one opponent on the same rows.

    :param difference: Candidate minus opponent, oriented so that above 0 the candidate is better.
    """

    opponent: str
    metric: str
    difference: Interval


@dataclass(frozen=True, slots=True)
class SliceScore(Payload):
    """The candidate's score on the rows where *column* equals *value*."""

    column: str
    value: str
    rows: int
    metric: str
    score: Interval


@dataclass(frozen=True, slots=True)
class SegmentScore(Payload):
    """
    A segment on the candidate's evaluation rows.

    :param answered_by: The segment whose child answers, which is this one, or "parent".
    :param reason: Why, as it was decided when the model was trained.
    :param score: The candidate's primary metric; None where the rows leave it undefined, as do the other two.
    :param parent: The parent's.
    :param difference: Candidate minus parent, oriented so that above 0 the candidate is better.
    """

    value: str
    rows: int
    answered_by: str
    reason: str
    score: Interval | None = None
    parent: Interval | None = None
    difference: Interval | None = None


@dataclass(frozen=True, slots=True)
class Evaluation(Payload):
    """
    Everything measured about a candidate.

    :param run_id: MLflow run of the candidate; empty if it has none.
    :param partition: Month it was evaluated on; empty if the rows are of no one month.
    :param champion_version: Champion it was compared with; None if there was none, empty if it is not registered.
    :param data: The rows, as a table version; None if they were joined from tables of somebody else.
    :param task: Kind of target, a name of `mlops_provider.core.tasks.TASKS`.
    :param fairness: What was measured between groups of people.
    :param block: What was resampled as a whole, such as "day"; None for single rows.
    :param blocks: How many of them there were; with single rows None.
    :param segments: Who answers for each segment, and how well, if the candidate is made of segments.
    """

    model: str
    run_id: str
    partition: str
    rows: int
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceScore, ...]
    champion_version: str | None
    data: TableRef | None
    task: str = BINARY.name
    fairness: Fairness = NOT_ASSESSED
    block: str | None = None
    blocks: int | None = None
    segments: tuple[SegmentScore, ...] = ()

    def of(self, name: str) -> Contender | None:
        """Return the contender called *name*."""
        return next((contender for contender in self.contenders if contender.name == name), None)

    def against(self, opponent: str, metric: str) -> Interval | None:
        """Return the difference to *opponent* on *metric*; above 0 the candidate is better."""
        return next(
            (one.difference for one in self.comparisons if (one.opponent, one.metric) == (opponent, metric)), None
        )

    def score(self, contender: str, metric: str) -> Interval | None:
        """Return what *contender* scored on *metric*."""
        found = self.of(contender)
        return None if found is None else found.metrics.get(metric)

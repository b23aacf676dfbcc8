"""The interface that rollouts speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.core.guards import Observed
    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.replicas import Replica


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a target answered to one request.

    :param predictions: One per row.
    :param version: Version that answered.
    :param generation: Generation of traffic it was chosen by, from 1.
    """

    predictions: tuple[float, ...]
    version: str
    generation: int


@dataclass(frozen=True, slots=True)
class Packed:
    """
    A version as one file, for targets that reach neither ledger nor registry.

    :param content: A tar of a package, compressed with gzip.
    :param digest: SHA-256, in hex, of its manifest, which holds those of everything else.
    """

    version: str
    content: bytes
    digest: str


class Target(Protocol):
    """
    Something that serves one model and whose traffic can be moved.

    :ivar patience: Longest wait, in seconds, until what :meth:`apply` began is there.
    :ivar holds: Longest part of it, in seconds, for which a task holds its worker before it comes back later.
    """

    patience: float
    holds: float

    @property
    def model(self) -> str:
        """Registered model that is served."""

    def apply(self, traffic: Traffic) -> None:
        """Start to move traffic to what *traffic* says; the moves of an older generation are given up."""

    def observe(self) -> Sequence[Replica]:
        """What each live replica serves right now; a target that is moved step by step makes its next move."""

    def look(self) -> Sequence[Replica]:
        """What each live replica serves right now, for whoever only wants to know: nothing is moved."""

    def predict(self, rows: pd.DataFrame, *, version: str | None = None, replica: Replica | None = None) -> Answer:
        """
        Score a sample.

        :param rows: Shape (n_rows, n_columns), at least the model's columns.
        :param version: Version that must answer; by default the one that traffic chooses.
        :param replica: Replica to ask; by default whichever a caller would get.
        :raises ServingCheckError: The target refuses these rows or this version. Not retried.
        :raises StoreUnavailableError: No answer. Retried.
        """

    def observed(self, traffic: Traffic) -> Mapping[str, Observed]:
        """
        What callers met with each version of the split since *traffic* was applied; rollouts hold it against guards.

        A target leaves out what it can't tell: predictions, pairs and the percentile are then empty, and a guard that
        needs them waits for its minimum sample.

        :return: Version to what was seen; one that saw no request has an empty entry.
        """

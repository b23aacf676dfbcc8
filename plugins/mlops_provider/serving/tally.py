"""What callers met with each version since the present generation of traffic began; rollouts judge by it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from random import random
from typing import Any

from mlops_provider.core.latency import bucket
from mlops_provider.core.readings import KEPT, KEPT_ROWS


class Tally:
    """Of one version in one generation. Safe to use from several threads: each field is changed by one step."""

    __slots__ = ("answered", "errors", "latencies", "pairs", "predictions", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.latencies: Counter[int] = Counter()
        self.answered = 0
        self.predictions: list[Sequence[float]] = []
        self.pairs: list[Sequence[tuple[float, float]]] = []

    def count(self, milliseconds: float, *, failed: bool) -> None:
        """Count a request; the latency of one that failed says nothing."""
        self.requests += 1
        if failed:
            self.errors += 1
        else:
            self.latencies[bucket(milliseconds)] += 1

    def predicted(self, predictions: Sequence[float], answered: Sequence[float] | None = None) -> None:
        """
        Keep what a request was answered, or not: of all requests, each is among the `KEPT` with the same chance.

        The newest would be of another time than those of a version that gets more requests, or fewer. Source: J. S.
        Vitter, Random sampling with a reservoir (1985), algorithm R.

        :param answered: For a shadow, what its caller was answered in its place.
        """
        place = self.answered if self.answered < KEPT else int(random() * (self.answered + 1))  # noqa: S311 - no secret
        self.answered += 1
        if place >= KEPT:
            return
        step = max(1, -(-len(predictions) // KEPT_ROWS))
        # A slice puts it at its place, or behind the last one.
        self.predictions[place : place + 1] = [predictions[::step]]
        if answered is not None:
            self.pairs[place : place + 1] = [list(zip(predictions[::step], answered[::step], strict=False))]

    def as_json(self) -> dict[str, Any]:
        """Everything, to be added to what other replicas saw."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "answered": self.answered,
            "latencies": {str(number): count for number, count in dict(self.latencies).items()},
            "predictions": list(self.predictions),
            "pairs": list(self.pairs),
        }


class Tallies:
    """
    Of all versions of a model in the newest generation that answered; earlier ones are forgotten.

    A replica that starts again begins anew: guards then need their minimum samples once more.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._versions: dict[str, Tally] = {}
        self._mutex = threading.Lock()

    def of(self, generation: int, version: str) -> Tally:
        """What to count a request of *version* in; one of an earlier generation counts for nothing."""
        if generation == self.generation and (tally := self._versions.get(version)):
            return tally
        with self._mutex:
            if generation < self.generation:
                return Tally()
            if generation > self.generation:
                self._versions, self.generation = {}, generation
            return self._versions.setdefault(version, Tally())

    def as_json(self) -> dict[str, Any]:
        """The generation, and what was counted by version."""
        with self._mutex:
            generation, versions = self.generation, dict(self._versions)
        return {"generation": generation, "versions": {name: each.as_json() for name, each in versions.items()}}

"""A deployment target that lives in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mlops_provider.core.guards import Observed
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import StoreUnavailableError
from mlops_provider.stores.replicas import Replica
from mlops_provider.targets import Answer
from support.serving import MODEL, World


@dataclass
class InProcessTarget:
    """Serves what the ledger says, at once; its faults are switches."""

    patience = holds = 60.0

    world: World
    model: str = MODEL
    replicas: Sequence[str] = ("a", "b")
    lying: set[str] = field(default_factory=set)
    refusing: set[str] = field(default_factory=set)
    silent: bool = False
    when_moved: Callable[[Traffic], None] = lambda traffic: None
    asked: int = 0
    seen: dict[str, Observed] = field(default_factory=dict)

    def apply(self, traffic: Traffic) -> None:
        self.when_moved(traffic)

    def observe(self) -> list[Replica]:
        traffic = self.world.ledger.traffic(MODEL)
        generation, split = (traffic.generation, traffic.split) if traffic else (0, {})
        errors = [
            f"Version {version} is refused: it holds foreign code." for version in split if version in self.refusing
        ]
        versions = tuple(version for version in split if version not in self.refusing)
        return [
            Replica(name, MODEL, f"http://{name}", generation, versions, " ".join(errors), 0.1)
            for name in self.replicas
        ]

    def look(self) -> list[Replica]:
        return self.observe()

    def predict(self, rows: pd.DataFrame, *, version: str | None = None, replica: Replica | None = None) -> Answer:
        if self.silent:
            raise StoreUnavailableError("The model server gave no answer.")
        self.asked += 1
        traffic = self.world.ledger.traffic(MODEL)
        assert traffic is not None
        shares = [traffic.split[version] for version in traffic.split]
        draw = np.random.default_rng(self.asked).choice(list(traffic.split), p=np.array(shares) / 100)
        answering = version or str(draw)
        lie = 0.001 if answering in self.lying else 0.0
        return Answer(tuple(p + lie for p in self.world.expected(answering, rows)), answering, traffic.generation)

    def observed(self, traffic: Traffic) -> dict[str, Observed]:
        return dict(self.seen)

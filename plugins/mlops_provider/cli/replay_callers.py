"""The part of those who ask for predictions, in a replay: rows of the month, while a version is rolled out."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Self

import httpx

from mlops_provider.core.names import Environment, Table
from mlops_provider.exceptions import MLOpsError
from mlops_provider.targets.server import body

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores

THREADS, PAUSE_SECONDS = 2, 0.01
ROWS_PER_REQUEST, REQUESTS = 5, 200
UNSEEN = "none that was there before"
"""A category that no training data holds."""
UNSEEN_EVERY = 5
"""One request in so many is about it, where that is asked for."""


class Callers:
    """
    Ask the model server for predictions until the block ends.

    :param url: Address of the model server.
    :param month: Month whose features are asked about; nobody asks if there are none.
    :param unseen: Whether some requests are about a category that is new to every version: a labelled fault.
    """

    def __init__(self, spec: ModelSpec, stores: Stores, url: str, month: str, *, unseen: bool = False) -> None:
        self.url = f"{url.rstrip('/')}/models/{spec.name}/invocations"
        self.bodies = bodies(spec, stores, month, unseen=unseen)
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(first,), daemon=True) for first in range(THREADS)]

    def __enter__(self) -> Self:
        """Begin to ask."""
        for thread in self.threads if self.bodies else ():
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop asking."""
        self.done.set()
        for thread in self.threads if self.bodies else ():
            thread.join()

    def ask(self, first: int) -> None:
        """Ask again and again; a refusal is the rollout's business, and a server that is away comes back."""
        token = os.environ.get(Environment.SERVER_TOKEN, "")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        number = first
        with httpx.Client(timeout=10, trust_env=False, headers=headers) as client:
            while not self.done.wait(PAUSE_SECONDS):
                number += THREADS
                try:
                    client.post(self.url, content=self.bodies[number % len(self.bodies)])
                except httpx.TransportError:
                    self.done.wait(1.0)


def bodies(spec: ModelSpec, stores: Stores, month: str, *, unseen: bool) -> list[str]:
    """Requests of a few rows each, spread over the month."""
    uri = stores.tables.uri(spec.name, Table.FEATURES)
    try:
        if month not in stores.tables.partitions(uri):
            return []
        rows = stores.tables.read(uri, columns=list(spec.feature_columns), partitions=[month])
    except MLOpsError:
        return []
    step = max(1, len(rows) // REQUESTS)
    parts = [rows.iloc[start : start + ROWS_PER_REQUEST] for start in range(0, len(rows), step)]
    return [body(_unseen(spec, part) if unseen and n % UNSEEN_EVERY == 0 else part) for n, part in enumerate(parts)]


def _unseen(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with a new category in the first column of categories."""
    return rows.assign(**dict.fromkeys(spec.features.categorical[:1], UNSEEN))

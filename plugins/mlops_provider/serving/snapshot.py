"""What a replica serves at one moment: the loaded versions of a model and the share of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd

from mlops_provider.serving.protocol import Column, RefusedRequestError, listed


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """
    A model version in memory.

    :param version: Version number in the registry.
    :param predict: Takes rows (n_rows, len(columns)), gives (n_rows,): probabilities of class 1, or numbers.
    :param columns: What the model was trained on, in order.
    :param answered_by: Of a model of segments: takes the same rows, gives the segment whose own model answers each,
        or "parent", (n_rows,).
    """

    version: str
    predict: Callable[[pd.DataFrame], np.ndarray[Any, np.dtype[np.float64]]]
    columns: tuple[Column, ...]
    answered_by: Callable[[pd.DataFrame], np.ndarray[Any, np.dtype[Any]]] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    One generation of traffic; never changed, only replaced, so a request that holds one can't mix versions.

    :param model: Registered model.
    :param generation: Generation of the traffic record, from 1.
    :param split: Loaded version -> weight; 0 is loaded for pinned requests only.
    :param versions: The loaded versions by number.
    """

    model: str
    generation: int
    split: Mapping[str, int]
    versions: Mapping[str, LoadedVersion]

    @property
    def open(self) -> bool:
        """Whether requests that pin no version are answered."""
        return any(self.split.values())

    def pinned(self, version: str) -> LoadedVersion:
        """
        Give the version a request asks for by number.

        :raises RefusedRequestError: It is not loaded here.
        """
        try:
            return self.versions[version]
        except KeyError:
            loaded = listed(sorted(self.versions, key=_by_number)) or "none"
            raise RefusedRequestError(f"This version of {self.model} is not loaded; loaded: {loaded}.", 404) from None

    def chosen(self, request_id: str) -> LoadedVersion:
        """
        Give the version that *request_id* belongs to: the same one on every replica.

        Older versions take the lower end of the scale, so a request that the canary got at
        10 % stays with it at 50 %.

        :raises RefusedRequestError: No version has traffic yet.
        """
        shares = [(version, weight) for version, weight in self.split.items() if weight > 0]
        if not shares:
            raise RefusedRequestError(f"No version of {self.model} has traffic yet; deploy a version.", 503)
        if len(shares) == 1:
            return self.versions[shares[0][0]]
        digest = hashlib.sha256(f"{self.model}:{request_id}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") % sum(weight for _, weight in shares)
        shares.sort(key=lambda share: _by_number(share[0]))
        bounds = accumulate(weight for _, weight in shares)
        return self.versions[next(version for (version, _), bound in zip(shares, bounds, strict=True) if point < bound)]


def _by_number(version: str) -> tuple[int, str]:
    return (int(version), version) if version.isdecimal() else (0, version)

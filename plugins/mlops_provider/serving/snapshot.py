"""What a replica serves at one moment: the loaded versions of a model and the share of each."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_provider.core.columns import Column
from mlops_provider.serving.columns import Arrays
from mlops_provider.serving.refusal import RefusedRequestError, listed


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """
    A model version in memory.

    :param version: Version number in the registry.
    :param predict: Takes one array per column, each of shape (n_rows,), gives (n_rows,): probabilities of class 1, or
        numbers. Called from several threads.
    :param columns: What the model was trained on, in order.
    :param answered_by: Of a model of segments: takes the same rows, gives the segment whose own model answers each,
        or "parent", (n_rows,).
    """

    version: str
    predict: Callable[[Arrays], NDArray[np.float64]]
    columns: tuple[Column, ...]
    answered_by: Callable[[Arrays], NDArray[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    One generation of traffic; never changed, only replaced, so a request that holds one can't mix versions.

    :param model: Registered model.
    :param generation: Generation of the traffic record, from 1.
    :param split: Loaded version -> weight; 0 is loaded for pinned requests and as a shadow only.
    :param versions: The loaded versions by number.
    :param shadow: Loaded versions that score what others answered, unseen by callers.
    :param before: Loaded versions that a rollback would bring back; nobody can ask for them.
    """

    model: str
    generation: int
    split: Mapping[str, int]
    versions: Mapping[str, LoadedVersion]
    shadow: tuple[str, ...] = ()
    before: Mapping[str, LoadedVersion] = field(default_factory=dict)
    # Older versions take the lower end of the scale, see `chosen`.
    _chosen: tuple[LoadedVersion, ...] = field(init=False, repr=False, compare=False)
    _bounds: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shares = sorted(((version, weight) for version, weight in self.split.items() if weight), key=_age)
        object.__setattr__(self, "_chosen", tuple(self.versions[version] for version, _ in shares))
        object.__setattr__(self, "_bounds", tuple(accumulate(weight for _, weight in shares)))

    @property
    def open(self) -> bool:
        """Whether requests that pin no version are answered."""
        return bool(self._bounds)

    @property
    def leading(self) -> LoadedVersion:
        """The version with most traffic; only while some has traffic."""
        return self.versions[max(self.split, key=lambda version: self.split[version])]

    def pinned(self, version: str) -> LoadedVersion:
        """
        Give the version a request asks for by number.

        :raises RefusedRequestError: It is not loaded here.
        """
        try:
            return self.versions[version]
        except KeyError:
            loaded = listed(sorted(self.versions, key=_number)) or "none"
            raise RefusedRequestError(f"This version of {self.model} is not loaded; loaded: {loaded}.", 404) from None

    def chosen(self, key: str) -> LoadedVersion:
        """
        Give the version that *key* belongs to: the same one on every replica.

        Older versions take the lower end of the scale, so a key that the canary got at 10 % stays with it at 50 %.

        :param key: Request ID, or what stands for the entity that is asked about.
        :raises RefusedRequestError: No version has traffic yet.
        """
        chosen = self._chosen
        if len(chosen) == 1:
            return chosen[0]
        if not chosen:
            raise RefusedRequestError(
                f"No version of {self.model} has traffic yet; deploy a version.", 503, retry_after=1
            )
        digest = hashlib.sha256(f"{self.model}:{key}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") % self._bounds[-1]
        return chosen[bisect_right(self._bounds, point)]


def _age(share: tuple[str, int]) -> tuple[int, str]:
    return _number(share[0])


def _number(version: str) -> tuple[int, str]:
    return (int(version), version) if version.isdecimal() else (0, version)

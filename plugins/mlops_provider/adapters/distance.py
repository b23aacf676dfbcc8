"""How far two samples of numbers lie apart, without the report that drift detection makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlops_provider.core.metrics import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLEST = 0.001
_RESAMPLES = 100


def wasserstein(
    reference: Sequence[Sequence[float]], current: Sequence[Sequence[float]], *, deviations: float = 3.0
) -> Interval:
    """
    Wasserstein distance in standard deviations of the reference, as Evidently measures drift of numbers.

    It is the area between the two empirical distribution functions: Vallender, "Calculation of the Wasserstein
    distance between probability distributions on the line" (1974). How sure it is comes from a bootstrap of whole
    groups, as numbers of one group are alike: Davison and Hinkley, "Bootstrap methods and their application" (1997),
    section 3.8. The same samples give the same interval.

    :param reference: Groups of numbers, such as the rows of a request; at least one number.
    :param current: As *reference*.
    :param deviations: Half the interval's width, in standard deviations of the bootstrap's distances.
    :return: From 0; a deviation of the reference below 0.001 counts as that.
    """
    rng = np.random.default_rng(0)
    samples = [_Sample(reference), _Sample(current)]
    places = np.sort(np.concatenate([sample.values for sample in samples]))
    scale = max(float(np.std(samples[0].values)), _SMALLEST)

    def apart(shares: Sequence[NDArray[np.float64]]) -> float:
        return float(np.sum(np.abs(np.subtract(*shares)) * np.diff(places))) / scale

    value = apart([sample.shares(places) for sample in samples])
    others = [apart([sample.shares(places, rng) for sample in samples]) for _ in range(_RESAMPLES)]
    margin = deviations * float(np.std(others))
    return Interval(value, max(value - margin, 0.0), value + margin)


class _Sample:
    """Numbers in their order, and the group of each."""

    def __init__(self, groups: Sequence[Sequence[float]]) -> None:
        values = np.concatenate([np.asarray(group, dtype=float) for group in groups])
        group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        order = np.argsort(values, kind="stable")
        self.values, self.group_of, self.groups = values[order], group_of[order], len(groups)

    def shares(self, places: NDArray[np.float64], rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """Distribution function at all places but the last: of the sample, or of as many groups drawn from it."""
        drawn = np.ones(self.groups) if rng is None else rng.multinomial(self.groups, [1 / self.groups] * self.groups)
        sums = np.concatenate([[0.0], np.cumsum(drawn[self.group_of])])
        return np.asarray(sums[np.searchsorted(self.values, places[:-1], side="right")] / max(sums[-1], 1.0))

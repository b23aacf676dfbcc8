"""How far two samples of numbers lie apart, without the report that drift detection makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SMALLEST = 0.001


def wasserstein(reference: Sequence[float], current: Sequence[float]) -> float:
    """
    Wasserstein distance in standard deviations of the reference, as Evidently measures drift of numbers.

    It is the area between the two empirical distribution functions: Vallender, "Calculation of the Wasserstein
    distance between probability distributions on the line" (1974).

    :param reference: Shape (n,), at least one number.
    :param current: Shape (m,), at least one number.
    :return: From 0; a deviation below 0.001 counts as that.
    """
    one, other = np.sort(np.asarray(reference, dtype=float)), np.sort(np.asarray(current, dtype=float))
    places = np.sort(np.concatenate([one, other]))
    shares = (np.searchsorted(each, places[:-1], side="right") / len(each) for each in (one, other))
    area = np.sum(np.abs(np.subtract(*shares)) * np.diff(places))
    return float(area / max(float(np.std(one)), _SMALLEST))

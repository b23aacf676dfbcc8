"""Latencies in buckets: what several replicas counted can be added, and any percentile read off the sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

GROWTH = 1.05
"""Each bucket is so many times as wide as the one before: a percentile is at most 5 % too high."""
_SHORTEST = 0.001


def bucket(milliseconds: float) -> int:
    """Number of the bucket that holds a latency; its upper bound is ``GROWTH ** number`` milliseconds."""
    return math.ceil(math.log(max(milliseconds, _SHORTEST), GROWTH))


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """
    Upper bound, in milliseconds, of the bucket in which a percentile lies; None without latencies.

    :param counts: Bucket to how many latencies it holds.
    :param share: Which percentile, above 0 to 1.
    """
    left = share * sum(counts.values())
    for number, count in sorted(counts.items()):
        left -= count
        if left <= 0:
            return float(GROWTH**number)
    return None


def longer_than(counts: Mapping[int, int], milliseconds: float) -> int:
    """How many latencies are surely longer: those of a bucket that holds *milliseconds* are not."""
    return sum(count for number, count in counts.items() if number > bucket(milliseconds))

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


def percentile_at_least(counts: Mapping[int, int], share: float, *, deviations: float) -> float | None:
    """
    What a percentile surely is, in milliseconds: the lower end of its interval between two ranks; None without any.

    So many of n latencies are below the percentile as of n throws of a coin that shows heads with probability *share*,
    whatever their distribution. Source: W. J. Conover, Practical nonparametric statistics, 3rd ed. (1999), section 3.2.

    :param counts: Bucket to how many latencies it holds.
    :param share: Which percentile, above 0 to 1.
    :param deviations: Half the interval's width, in standard deviations of that number.
    """
    if not (seen := sum(counts.values())):
        return None
    lowest = share - deviations * math.sqrt(share * (1 - share) / seen)
    return percentile(counts, lowest) if lowest > 0 else 0.0

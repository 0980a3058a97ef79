"""Latencies as counts in classes that grow by a tenth: sums of two are those of both, percentiles are within 5%."""

import math
from collections.abc import Iterable, Sequence

_FIRST_MS = 0.1
_GROWTH = 1.1
CLASSES = 140
"""The last one begins at 57,000 ms and holds all that is above."""


def class_of(latency_ms: float) -> int:
    """Return the class of a latency (ms)."""
    if latency_ms <= _FIRST_MS:
        return 0
    return min(CLASSES - 1, math.ceil(math.log(latency_ms / _FIRST_MS, _GROWTH)))


def percentile(counts: Iterable[Sequence[tuple[int, int]]], percent: float) -> float:
    """Return a percentile (ms) of the sum of several (class, count) lists; NaN where nothing was counted.

    It is the middle, in proportion, of the class in which it lies.
    """
    total = [0] * CLASSES
    for each in counts:
        for place, count in each:
            total[place] += count
    wanted = percent / 100 * sum(total)
    below = 0
    for place, count in enumerate(total):
        below += count
        if count and below >= wanted:
            return float(_FIRST_MS * _GROWTH ** (place - 0.5))
    return math.nan

"""Timing of several sides in turn, so that what disturbs the machine disturbs all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one thing, in whatever unit: median, quartiles, extremes, 99th percentile."""

    median: float
    low: float
    high: float
    least: float
    most: float
    p99: float
    count: int

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Spread":
        """Summarise measurements.

        Raises:
            ValueError: when there are none.

        >>> Spread.of([3.0, 1.0, 2.0]).median
        2.0
        """
        array = np.asarray(values, dtype=np.float64)
        if not array.size:
            raise ValueError("nothing was measured")
        low, median, high, p99 = np.percentile(array, (25, 50, 75, 99))
        return cls(
            float(median), float(low), float(high), float(array.min()), float(array.max()), float(p99), array.size
        )

    def scaled(self, factor: float) -> "Spread":
        """Return it in another unit.

        >>> Spread.of([0.001, 0.003]).scaled(1000).median
        2.0
        """
        low, high, least, most, p99 = (
            value * factor for value in (self.low, self.high, self.least, self.most, self.p99)
        )
        return Spread(self.median * factor, low, high, least, most, p99, self.count)


def alternate(
    sides: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmups: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, Spread]:
    """Time every side once in each round, and return the seconds that each took.

    Args:
        sides: name → what is timed.
        repeats: rounds that count.
        warmups: rounds before them that do not.
        clock: seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmups + repeats):
        for name, side in sides.items():
            began = clock()
            side()
            if number >= warmups:
                taken[name].append(clock() - began)
    return {name: Spread.of(values) for name, values in taken.items()}


def alternate_for(sides: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Spread]:
    """Time sides in turn for about so many seconds, at least 5 rounds and at most 200; see `alternate`."""
    once = alternate(sides, repeats=1, warmups=1)
    rounds = seconds / sum(spread.median for spread in once.values())
    return alternate(sides, repeats=int(min(max(rounds, 5), 200)))

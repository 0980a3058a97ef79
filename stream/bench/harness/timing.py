"""Times several alternatives in turn, so that a disturbance of the machine affects all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary statistics of repeated measurements, in any unit."""

    median: float
    q25: float
    q75: float
    min: float
    max: float
    p99: float
    count: int

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Summary":
        """Summarise measurements.

        Raises:
            ValueError: when there are none.

        >>> Summary.of([3.0, 1.0, 2.0]).median
        2.0
        """
        array = np.asarray(values, dtype=np.float64)
        if not array.size:
            raise ValueError("nothing was measured")
        q25, median, q75, p99 = np.percentile(array, (25, 50, 75, 99)).tolist()
        return cls(median, q25, q75, float(array.min()), float(array.max()), p99, array.size)

    def scaled(self, factor: float) -> "Summary":
        """Return the summary in another unit.

        >>> Summary.of([0.001, 0.003]).scaled(1000).median
        2.0
        """
        return Summary(
            median=self.median * factor,
            q25=self.q25 * factor,
            q75=self.q75 * factor,
            min=self.min * factor,
            max=self.max * factor,
            p99=self.p99 * factor,
            count=self.count,
        )


def time_alternately(
    sides: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmups: int = 2,
    clock: Clock = time.perf_counter,
) -> dict[str, Summary]:
    """Time every side once in each round, and summarise the seconds of each.

    Args:
        sides: name → function to time.
        repeats: rounds that are measured.
        warmups: rounds before them that are not.
        clock: returns seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warmups + repeats):
        for name, side in sides.items():
            began = clock()
            side()
            if number >= warmups:
                taken[name].append(clock() - began)
    return {name: Summary.of(values) for name, values in taken.items()}


def time_alternately_for(sides: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Summary]:
    """Time sides in turn for about `seconds`, in 5 to 200 rounds; see `time_alternately`."""
    once = time_alternately(sides, repeats=1, warmups=1)
    rounds = seconds / sum(summary.median for summary in once.values())
    return time_alternately(sides, repeats=int(min(max(rounds, 5), 200)))

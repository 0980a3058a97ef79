"""Equal spans of time, at most `BINS` of them; their width doubles as often as needed, so that they hold any time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 24
"""Spans of time that are told apart; when they are used up, two neighbours become one."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TimeSpans:
    """Neighbouring spans of one width, each beginning at a multiple of it.

    Attributes:
        width: length of a span, in units of time; a power of two.
        first: number of the first span: its begin divided by the width.
        used: spans from the first to the last.
    """

    width: int = 1
    first: int = 0
    used: int = 0

    @property
    def edges(self) -> list[int]:
        """Times at which the spans begin, and the time at which the last one ends."""
        return [(self.first + span) * self.width for span in range(self.used + 1)]

    @property
    def third_edges(self) -> list[int]:
        """The four edges of the thirds of the spans, as equal as whole spans allow."""
        return [round(self.used * part / 3) for part in range(4)]

    def extended_to(self, low: int, high: int) -> "TimeSpans":
        """Return spans that hold these ones and the times from `low` to `high`; the width is the least that fits."""
        if self.used:
            low = min(low, self.first * self.width)
            high = max(high, (self.first + self.used) * self.width - 1)
        width = self.width
        while high // width - low // width >= BINS:
            width *= 2
        return TimeSpans(width, low // width, high // width - low // width + 1)

    def union(self, other: "TimeSpans") -> "TimeSpans":
        """Return spans that hold those of both.

        A width is the least that fits, so the new one is at least that of either.
        """
        if not other.used:
            return self
        return self.extended_to(other.first * other.width, (other.first + other.used) * other.width - 1)

    def places_in(self, wider: "TimeSpans") -> Ints:
        """Return (used,) the place of each span within wider spans; several may have the same one."""
        return (np.arange(self.used) + self.first) * self.width // wider.width - wider.first

    def place(self, times: Ints) -> Ints:
        """Return the place of the span that holds each time."""
        return times // self.width - self.first

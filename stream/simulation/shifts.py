"""Change points: moments at which a part of the world changes suddenly."""

import numpy as np

from stream.simulation.config import WorldConfig
from stream.simulation.hashing import Floats, Ints, uniform


class Shifts:
    """One shift in each period of `shift_s`, at a time that the seed decides; none when the period is 0.

    A shift changes a share of what can change. How often a thing has changed is a pure function of time, so any moment
    can be computed in any order.
    """

    def __init__(self, config: WorldConfig, *, seed: int, start: int) -> None:
        self._period_ms, self._share = 1000 * config.shift_s, config.shift_share
        self._start, self._salt = start, np.uint64(seed % 2**64)

    def count(self, ts: int) -> int:
        """Return how many shifts there were from the start up to `ts` (ms)."""
        if not self._period_ms or ts < self._start:
            return 0
        periods, within = divmod((ts - self._start) / self._period_ms, 1.0)
        return int(periods) + int(within >= self._place(int(periods)))

    def moments(self, until: int) -> list[float]:
        """Return the moments (ms) of all shifts before `until`, in order."""
        moments: list[float] = []
        while self._period_ms:
            moment = self._start + (len(moments) + self._place(len(moments))) * self._period_ms
            if moment >= until:
                break
            moments.append(moment)
        return moments

    def change_points_passed(self, ts: int, uniforms: Floats) -> Ints:
        """Return how often each of (n,) things has changed by `ts` (ms), from its uniform number in [0, 1)."""
        return np.floor(self.count(ts) * self._share + uniforms).astype(np.int64)

    def _place(self, period: int) -> float:
        """Where in its period a shift comes, in (0, 1)."""
        return float(uniform(np.array([period], dtype=np.uint64), self._salt ^ np.uint64(0x5F))[0])

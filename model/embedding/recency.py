"""When each row of a table was last touched, in event time: which rows are to go, and which go first."""

import numpy as np
import numpy.typing as npt

from model.embedding.keys import Rows
from model.kernels import table

_SWEEPS = 32
"""Sweeps in the time after which rows expire: one looks at all rows, so a row goes up to a 32nd of that time late."""


class Recency:
    """The time of each row's last touch, on a clock of event time that never goes back.

    Args:
        expire_after_s: seconds without a touch after which a row expires; 0 for never.
    """

    def __init__(self, expire_after_s: float = 0.0) -> None:
        self._expire_ms = round(expire_after_s * 1000)
        self._times = np.zeros(1, np.int64)
        self._now = -1
        self._swept = -1

    def reserve(self, capacity: int) -> None:
        """Have room for so many rows."""
        if capacity > len(self._times):
            self._times = np.concatenate([self._times, np.zeros(capacity - len(self._times), np.int64)])

    def advance(self, now_ms: int) -> bool:
        """Move the clock on, if `now_ms` is later; returns whether it is time to look for rows that have expired."""
        if self._now < 0:
            self._times[:] = now_ms  # rows that were there before any time was known are as of now
            self._swept = now_ms
        self._now = max(self._now, now_ms)
        if not self._expire_ms or (self._now - self._swept) * _SWEEPS < self._expire_ms:
            return False
        self._swept = self._now
        return True

    def touch(self, rows: Rows) -> None:
        """Take note that rows were touched now."""
        table.set_rows(self._times, rows, self._now)

    def expired(self, held: npt.NDArray[np.bool_]) -> Rows:
        """Return which of the (n,) rows that are held were not touched for as long as they are kept."""
        return np.flatnonzero(held & (self._times[: len(held)] <= self._now - self._expire_ms))

    def coldest(self, held: npt.NDArray[np.bool_], count: int) -> Rows:
        """Return up to `count` of the (n,) rows that are held: untouched the longest, of equal ones the lowest."""
        rows = np.flatnonzero(held)
        if count >= len(rows):
            return rows
        times = self._times[rows]
        limit = np.partition(times, count - 1)[count - 1]
        colder = rows[times < limit]
        return np.concatenate([colder, rows[times == limit][: count - len(colder)]])

    def state(self, rows: Rows) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that `load_state` needs of some rows, as arrays by name."""
        return {"times": self._times[rows], "clock": np.array([self._now, self._swept])}

    def load_state(self, rows: Rows, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `state` returned of rows for which there is room."""
        self._times[rows] = state["times"].astype(np.int64)
        self._now, self._swept = state["clock"].tolist()

"""Exponentially decayed counts of keys, at several half-lives."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.embedding.key_index import KeyIndex
from model.embedding.keys import Keys, Rows
from model.kernels import native

Times = npt.NDArray[np.int64]
"""Milliseconds since the Unix epoch."""
Counts = npt.NDArray[np.float64]


class CountRows(NamedTuple):
    """Some rows of a table of counts.

    Attributes:
        keys: (n,) uint64, each once.
        times: (n,) int64 times (ms) as of which the sums are.
        sums: (n, columns, half-lives) float64.
    """

    keys: Keys
    times: Times
    sums: Counts


class DecayedCounts:
    """For each key and column, the events so far, each weighted by 2^(−age / half-life).

    A row keeps its sums as of its newest event, and is brought forward only when it is read or added to (forward
    decay: Cormode, Shkapenyuk, Srivastava and Xu, ICDE 2009). So an event costs the rows that it touches, the order of
    events does not matter, and counts of the same key from two places can be added.

    Args:
        half_lives_s: seconds each; `inf` counts for ever.
        columns: kinds of events that are counted apart.
        max_rows: keys beyond these are not counted.
    """

    def __init__(self, half_lives_s: Sequence[float], *, columns: int = 1, max_rows: int = 2**31 - 1) -> None:
        self._rates = 1e-3 / np.array(half_lives_s, np.float64)
        self._index = KeyIndex(max_rows)
        self._sums = np.zeros((0, columns, len(half_lives_s)))
        self._times = np.zeros(0, np.int64)
        self._touched = np.zeros(0, np.bool_)
        self._max_rows = max_rows

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: Keys, times: Times, column: int = 0, weights: Counts | None = None) -> None:
        """Count (n,) events of keys at their times, each once or with its weight; key 0 is not counted."""
        rows = self._index.admit(keys)
        self._reserve(len(self._index))
        # Compiled, it leaves the interpreter to the other threads.
        add = _add if native.library() is None else native.count
        add(rows, times, weights, column, self._rates, self._sums, self._times, self._touched)

    def at(self, keys: Keys, time: int) -> Counts:
        """Return (n, columns, half-lives) counts of (n,) keys as they are at a time; zeros for an unknown key.

        Events that are younger than `time` count as if they were just now.
        """
        rows = self._index.lookup(keys)
        known = np.flatnonzero(rows >= 0)
        counts = np.zeros((len(keys), *self._sums.shape[1:]))
        held = rows[known]
        counts[known] = self._sums[held] * _decay(np.maximum(time - self._times[held], 0), self._rates)[:, None]
        return counts

    def touched(self) -> CountRows:
        """Return the rows that have changed since `clear_touched`."""
        return self._rows(np.flatnonzero(self._touched[: len(self)]))

    def clear_touched(self) -> None:
        """Forget which rows have changed."""
        self._touched[:] = False

    def all_rows(self) -> CountRows:
        """Return every row."""
        return self._rows(np.arange(len(self)))

    def assign(self, rows: CountRows) -> None:
        """Set rows to what they are elsewhere; keys beyond `max_rows` are left out."""
        places = self._index.admit(rows.keys)
        self._reserve(len(self._index))
        held = places >= 0
        places = places[held]
        self._sums[places], self._times[places] = rows.sums[held], rows.times[held]
        self._touched[places] = True

    def expire(self, before: int) -> None:
        """Drop the keys without an event since a time (ms), with all their counts."""
        rows = self.all_rows()
        kept = np.flatnonzero(rows.times >= before)
        if len(kept) == len(self):
            return
        touched = self._touched[kept]
        self._index = KeyIndex(self._max_rows)
        self._sums, self._times = self._sums[:0], self._times[:0]
        self._touched = self._touched[:0]
        self.assign(CountRows(rows.keys[kept], rows.times[kept], rows.sums[kept]))
        self._touched[: len(kept)] = touched

    def _rows(self, places: npt.NDArray[np.int64]) -> CountRows:
        return CountRows(self._index.keys[places], self._times[places], self._sums[places])

    def _reserve(self, size: int) -> None:
        if size > len(self._times):
            more = max(size, 2 * len(self._times), 1024) - len(self._times)
            self._sums = np.concatenate([self._sums, np.zeros((more, *self._sums.shape[1:]))])
            self._times = np.concatenate([self._times, np.zeros(more, np.int64)])
            self._touched = np.concatenate([self._touched, np.zeros(more, np.bool_)])


def _add(
    rows: Rows,
    times: Times,
    weights: Counts | None,
    column: int,
    rates: Counts,
    sums: Counts,
    newest: Times,
    touched: npt.NDArray[np.bool_],
) -> None:
    """Do what `native.count` does, where it is not compiled."""
    counted = rows >= 0
    rows, times = rows[counted], times[counted]
    distinct = np.unique(rows)
    before = newest[distinct]
    np.maximum.at(newest, rows, times)
    sums[distinct] *= _decay(newest[distinct] - before, rates)[:, None]
    added = _decay(newest[rows] - times, rates)
    if weights is not None:
        added *= weights[counted, None]
    np.add.at(sums[:, column], rows, added)
    touched[distinct] = True


def _decay(ages: Times, rates: Counts) -> Counts:
    """Return (n, half-lives) weights of (n,) ages in milliseconds."""
    weights: Counts = np.exp2(-ages[:, None] * rates)
    return weights

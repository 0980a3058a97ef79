"""Decayed counts of items and categories over a whole stream, and what they say of a user's candidates."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.embedding.key_index import Keys
from model.statistics.decayed_counts import Counts, DecayedCounts
from state.behavior import BehaviorArray

_ALL = np.uint64(1 << 32)
"""The key of everything together; no category has it, theirs have 32 bits."""
_LEAST = 0.01
"""Added to a count before its logarithm: the difference between hardly any and none is news, too."""


class ItemStatistics:
    """Folds behaviours into counts, and tells of candidates how often they occur, lately and ever.

    Args:
        half_lives_s: seconds after which an event counts half, as in `ModelSpec.statistics`.
    """

    def __init__(self, half_lives_s: Sequence[float]) -> None:
        lives = (*half_lives_s, math.inf)
        self._items = DecayedCounts(lives)
        self._categories = DecayedCounts(lives)
        self._rates = 1e-3 / np.array(lives)

    def fold(self, behaviors: BehaviorArray) -> None:
        """Count behaviours, of any users and in any order."""
        if not len(behaviors):
            return
        times = behaviors["ts"].astype(np.int64)
        self._items.add(behaviors["item"].astype(np.uint64), times)
        self._categories.add(behaviors["category"].astype(np.uint64), times)
        self._categories.add(np.full(len(behaviors), _ALL), times)

    def features(
        self,
        sequence: BehaviorArray,
        ts: int,
        items: npt.NDArray[np.uint64],
        categories: npt.NDArray[np.uint32],
    ) -> npt.NDArray[np.float32]:
        """Return (C, `ModelSpec.numbers`) numbers of (C,) candidates at a time (ms).

        Of item, then category: the logarithm of the count at each half-life and ever; of the recent counts over that of
        ever; of the user's share over the share in all, at each half-life and ever.
        """
        everything = self._categories.at(np.array([_ALL]), ts)[:, 0]
        weights = np.exp2(-np.maximum(ts - sequence["ts"].astype(np.int64), 0)[:, None] * self._rates)
        own_total = weights.sum(axis=0)
        parts: list[Counts] = []
        for table, keys, history in (
            (self._items, items.astype(np.uint64), sequence["item"].astype(np.uint64)),
            (self._categories, categories.astype(np.uint64), sequence["category"].astype(np.uint64)),
        ):
            counts = table.at(keys, ts)[:, 0]
            logs = np.log(counts + _LEAST)
            own = _equal(keys, history) @ weights
            share = np.log((own + _LEAST) / (own_total + 1.0)) - np.log((counts + 1.0) / (everything + 1.0))
            parts += [logs, logs[:, :-1] - logs[:, -1:], share]
        return np.concatenate(parts, axis=1).astype(np.float32)


def _equal(keys: Keys, history: Keys) -> Counts:
    """Return (C, L) 1 where a candidate's key is that of a behaviour; key 0 is like none."""
    equal: npt.NDArray[np.bool_] = (keys[:, None] == history) & (keys != 0)[:, None]
    return equal.astype(np.float64)

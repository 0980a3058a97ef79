"""Decayed counts of items and categories over a whole stream, and what they say of a user's candidates."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.embedding.keys import Keys
from model.kernels import native
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
        max_rows: items, and categories, that are counted.
        length: newest behaviours of a user of which the share is told: no more than the models read, else a short one
            would learn of a long history here.

    Attributes:
        tables: the counts of `item` and of `category`, one column each.
    """

    def __init__(self, half_lives_s: Sequence[float], *, max_rows: int = 2**31 - 1, length: int = 2**31 - 1) -> None:
        self._length = length
        lives = (*half_lives_s, math.inf)
        self.tables = {name: DecayedCounts(lives, max_rows=max_rows) for name in ("item", "category")}
        self._rates = 1e-3 / np.array(lives)

    def fold(self, behaviors: BehaviorArray) -> None:
        """Count behaviours, of any users and in any order."""
        if not len(behaviors):
            return
        times = behaviors["ts"].astype(np.int64)
        # Everything together comes first, so that a full table has it.
        self.tables["category"].add(np.full(len(behaviors), _ALL), times)
        self.tables["category"].add(behaviors["category"].astype(np.uint64), times)
        self.tables["item"].add(behaviors["item"].astype(np.uint64), times)

    def features(
        self,
        sequence: BehaviorArray,
        ts: int,
        items: npt.NDArray[np.uint64],
        categories: npt.NDArray[np.uint32],
    ) -> npt.NDArray[np.float32]:
        """Return (C, `ModelSpec.numbers`) numbers of (C,) candidates at a time (ms).

        Of item, then category: the logarithm of the count at each half-life and ever; of the recent counts over that of
        ever; of the user's share over the share in all, at each half-life and ever. All are rounded to float16, as they
        travel: what a model reads is to the bit what it learns from later.
        """
        sequence = sequence[max(len(sequence) - self._length, 0) :]
        everything = self.tables["category"].at(np.array([_ALL]), ts)[:, 0]
        weights = np.exp2(-np.maximum(ts - sequence["ts"].astype(np.int64), 0)[:, None] * self._rates)
        own_total = weights.sum(axis=0)
        parts: list[Counts] = []
        for table, keys, history in (
            (self.tables["item"], items.astype(np.uint64), sequence["item"].astype(np.uint64)),
            (self.tables["category"], categories.astype(np.uint64), sequence["category"].astype(np.uint64)),
        ):
            counts = table.at(keys, ts)[:, 0]
            logs = np.log(counts + _LEAST)
            own = _sums_of(keys, history, weights)
            share = np.log((own + _LEAST) / (own_total + 1.0)) - np.log((counts + 1.0) / (everything + 1.0))
            parts += [logs, logs[:, :-1] - logs[:, -1:], share]
        return np.concatenate(parts, axis=1).astype(np.float16).astype(np.float32)


def pack_numbers(numbers: npt.NDArray[np.float32] | None) -> bytes:
    """Return (C, n) numbers as they travel: float16, little-endian; nothing for None."""
    return b"" if numbers is None else numbers.astype("<f2").tobytes()


def unpack_numbers(packed: bytes, candidates: int, width: int) -> npt.NDArray[np.float32] | None:
    """Return the (`candidates`, `width`) numbers that were packed; None when the bytes are not that many.

    They are not where there were none, or where the statistics were others when they were packed.
    """
    if not packed or len(packed) != 2 * candidates * width:
        return None
    return np.frombuffer(packed, "<f2").reshape(candidates, width).astype(np.float32)


def _sums_of(keys: Keys, history: Keys, weights: Counts) -> Counts:
    """Return (C, H) sums of the (L, H) weights of the behaviours that have a candidate's key; key 0 has none.

    Each sum is added in the order of the history, so it does not depend on the other candidates.
    """
    if native.library() is not None:
        return native.sums_by_key(keys, history, weights)
    distinct, places = np.unique(keys, return_inverse=True)
    found = np.minimum(np.searchsorted(distinct, history), len(distinct) - 1)
    hit = np.flatnonzero((distinct[found] == history) & (history != 0))
    sums = np.empty((len(distinct), weights.shape[1]))
    for column, weight in enumerate(weights.T):
        sums[:, column] = np.bincount(found[hit], weight[hit], minlength=len(distinct))
    return sums[places]

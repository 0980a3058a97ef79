"""Which new keys get a row: those that were seen often enough, by counts of a fixed size."""

import numpy as np
import numpy.typing as npt

from model.embedding.initial import mix
from model.embedding.keys import Keys

MOST_SEEN = 255
"""The largest count that is told apart."""
_LANES = 4
_WIDTH = 4
"""Counters of a lane for each key that is counted."""
_SEEDS = mix(np.arange(1, _LANES + 1, dtype=np.uint64))


class Admission:
    """Counts how often keys without a row were seen, and admits those that were seen `admit_after` times.

    A count-min sketch with conservative update (Estan and Varghese, SIGCOMM 2002): a count is never too small. Two of
    them take turns, so that counts of long ago go and no sketch fills up: once `capacity` different keys are in the
    present one, it becomes the one before, and that one goes. So a count is kept while `capacity` other keys come, at
    least. It is too large only for a key that meets others in all four lanes, a quarter full at most: with
    probability (1 − e^(−1/4))⁴, 0.24%, in each of the two when they are full.

    Counts are of occurrences, not of batches. What was counted of a key stays when it gets a row.

    Args:
        admit_after: occurrences that a key needs; with 1 all are admitted and nothing is counted.
        capacity: different keys that are counted at once; memory is 32 to 64 bytes for each.
    """

    def __init__(self, admit_after: int = 1, capacity: int = 2**18) -> None:
        self._admit_after = admit_after
        self._capacity = capacity
        width = 1 << (_WIDTH * capacity - 1).bit_length() if admit_after > 1 else 0
        self._counts = np.zeros((2, _LANES, width), np.uint8)
        self._mask = np.uint64(max(width, 1) - 1)
        self._distinct = 0

    def admits(self, keys: Keys, seen: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Count (n,) distinct keys, each seen so many more times; returns which of them are to have a row now."""
        if self._admit_after == 1:
            return np.ones(len(keys), np.bool_)
        places = (mix(keys ^ _SEEDS[:, None]) & self._mask).astype(np.int64)
        lanes = np.arange(_LANES)[:, None]
        now, before = self._counts
        counted = now[lanes, places].min(0)
        earlier = before[lanes, places].min(0)
        raised = np.minimum(counted + seen, MOST_SEEN)
        for lane, place in zip(now, places, strict=True):
            np.maximum.at(lane, place, raised.astype(np.uint8))
        self._distinct += int(np.count_nonzero(counted == 0))
        if self._distinct >= self._capacity:
            self._counts = np.stack([np.zeros_like(now), now])
            self._distinct = 0
        enough: npt.NDArray[np.bool_] = raised + earlier >= self._admit_after
        return enough

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that `load_state` needs, as arrays by name; nothing where nothing is counted."""
        if self._admit_after == 1:
            return {}
        return {"seen": self._counts.copy(), "seen_distinct": np.array([self._distinct])}

    def load_state(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over counts; those of a sketch of another size, or none, leave this one empty."""
        seen = state.get("seen")
        if self._admit_after > 1 and seen is not None and seen.shape == self._counts.shape:
            self._counts = seen.astype(np.uint8)
            self._distinct = int(state["seen_distinct"].item())

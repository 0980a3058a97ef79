"""A bounded set of recent sample ids, to recognise repeated samples."""

from itertools import chain

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from stream.schema.events import RequestKey

GOLDEN_RATIO = np.uint64(0x9E37_79B9_7F4A_7C15)
"""2⁶⁴ over the golden ratio, odd: multiplied by it, neighbouring integers lie far apart (Fibonacci hashing)."""


class RecentIds:
    """Remembers at least the `window` newest ids, and at most twice as many; after `restore`, three times.

    >>> seen = RecentIds(window=10)
    >>> seen.add(np.array([1, 2, 1], dtype=np.uint64)).tolist()
    [True, True, False]
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._old: set[int] = set()
        self._young: set[int] = set()

    def __len__(self) -> int:
        """Return the number of ids remembered."""
        return len(self._young) + len(self._old)

    def add(self, ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Remember ids; returns (n,) whether each was new."""
        new = np.empty(len(ids), dtype=np.bool_)
        for index, sample_id in enumerate(ids.tolist()):
            new[index] = sample_id not in self._young and sample_id not in self._old
            self._young.add(sample_id)
        if len(self._young) >= self._window:
            self._old, self._young = self._young, set()
        return new

    def forget(self, ids: npt.NDArray[np.uint64]) -> None:
        """Forget ids: their samples were not used after all."""
        self._young.difference_update(ids.tolist())
        self._old.difference_update(ids.tolist())

    def to_array(self) -> npt.NDArray[np.uint64]:
        """Return all ids, for a checkpoint; one seen long ago and again lately may come twice."""
        return np.fromiter(chain(self._old, self._young), dtype=np.uint64, count=len(self))

    def restore(self, ids: npt.NDArray[np.uint64]) -> None:
        """Remember the ids of a checkpoint."""
        self._old = set(ids.tolist())


_OF_CLICKS = np.uint64(0xC2B2_AE3D_27D4_EB4F)
"""Tells the ids of clicks from those of samples."""


def request_hash(request: RequestKey) -> int:
    """Return the 64-bit id of a request."""
    return xxh3_64_intdigest(request.text.encode())


def sample_ids(request: RequestKey, items: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the (C,) 64-bit ids by which a trainer recognises a repeated (request, item)."""
    salt = np.uint64(request_hash(request))
    mixed = (items ^ salt) * GOLDEN_RATIO
    ids: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(29))
    return ids


def click_ids(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the (C,) ids by which a trainer recognises repeated clicks, from the `sample_ids` of what was clicked."""
    mixed = (ids ^ _OF_CLICKS) * GOLDEN_RATIO
    clicks: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(29))
    return clicks

"""A bounded set of recent sample ids, to recognise repeated samples."""

from collections.abc import Set
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
        self._old: dict[int, int] = {}
        self._young: dict[int, int] = {}
        """Id → owner."""

    def __len__(self) -> int:
        """Return the number of ids remembered."""
        return len(self._young) + len(self._old)

    def add(self, ids: npt.NDArray[np.uint64], owner: int = 0) -> npt.NDArray[np.bool_]:
        """Remember ids; returns (n,) whether each was new.

        Args:
            ids: (n,) of samples.
            owner: 64 bits that stand for the user whose they are (`owner_of`); 0 for nobody.
        """
        new = np.empty(len(ids), dtype=np.bool_)
        for index, sample_id in enumerate(ids.tolist()):
            new[index] = sample_id not in self._young and sample_id not in self._old
            self._young[sample_id] = owner
        if len(self._young) >= self._window:
            self._old, self._young = self._young, {}
        return new

    def forget(self, ids: npt.NDArray[np.uint64]) -> None:
        """Forget ids: their samples were not used after all."""
        for sample_id in ids.tolist():
            self._young.pop(sample_id, None)
            self._old.pop(sample_id, None)

    def forget_owners(self, owners: Set[int]) -> None:
        """Forget all ids of some owners; looks through all that there are."""
        for known in (self._young, self._old):
            for sample_id in [each for each, owner in known.items() if owner in owners]:
                del known[sample_id]

    def to_array(self) -> npt.NDArray[np.uint64]:
        """Return (n, 2) all ids with their owners, for a checkpoint; an id that came again lately may come twice."""
        rows = chain.from_iterable(chain(self._old.items(), self._young.items()))
        return np.fromiter(rows, dtype=np.uint64, count=2 * len(self)).reshape(-1, 2)

    def restore(self, ids: npt.NDArray[np.uint64]) -> None:
        """Remember the ids of a checkpoint; (n,) of one from before owners were kept: they are nobody's."""
        self._old = dict(ids.tolist()) if ids.ndim == 2 else dict.fromkeys(ids.tolist(), 0)


def owner_of(user: str) -> int:
    """Return the 64 bits that stand for a user among `RecentIds`."""
    return xxh3_64_intdigest(user.encode())


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

"""A hash index from 64-bit keys to consecutive rows, looked up many keys at a time."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

_SMALLEST = 1024


def unique_in_order(keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Rows]:
    """Return the distinct values of the one-dimensional `keys` in order of first occurrence, and the inverse.

    `unique[inverse]` gives `keys` back.
    """
    ordered, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    by_first = np.argsort(first)
    place = np.empty(len(ordered), np.int64)
    place[by_first] = np.arange(len(ordered))
    return ordered[by_first], place[inverse]


class _Slots:
    """`capacity`, a power of two, places of a key and its row each; a free one holds key 0."""

    def __init__(self, capacity: int) -> None:
        self.keys = np.zeros(capacity, np.uint64)
        self.rows = np.full(capacity, -1, np.int32)
        self.mask = capacity - 1
        self._shift = np.uint64(64 - (capacity.bit_length() - 1))
        self._factor = np.uint64(int.from_bytes(os.urandom(8), "little") | 1)

    def first(self, keys: Keys) -> Rows:
        """Return the slot at which the search for each key begins."""
        return ((keys * self._factor) >> self._shift).astype(np.int64)

    def insert(self, keys: Keys, rows: npt.NDArray[np.int32]) -> None:
        """Put distinct, absent keys with distinct rows into free slots; of several that want one slot, one gets it."""
        slot = self.first(keys)
        while keys.size:
            free = self.keys[slot] == 0
            # The row comes before its key: who finds a key finds its row, also from another thread.
            self.rows[slot[free]] = rows[free]
            won = self.rows[slot] == rows
            self.keys[slot[won]] = keys[won]
            keys, rows, slot = keys[~won], rows[~won], (slot[~won] + 1) & self.mask


class KeyIndex:
    """Rows 0, 1, 2, … given to keys in order of first occurrence; key 0 stands for "none" and never has one.

    Open addressing with linear probing, at most half full, every step over whole arrays: a round compares all
    keys that are not settled yet with one slot each, and few survive the first. The hash is multiplicative
    with a random odd factor (universal, Dietzfelbinger et al. 1997), so nobody can choose keys that meet in
    one slot; the rows do not depend on the factor.

    One thread at a time changes it; `lookup` may run beside that in another. It then says −1 of keys that are just
    coming in, and the right row or −1 of all others: a row, once given, stays, and slots are replaced all at once.
    """

    def __init__(self, max_keys: int = 2**31) -> None:
        self._max_keys = max_keys
        self._by_row = np.zeros(_SMALLEST, np.uint64)
        self._size = 0
        self._slots = _Slots(2 * _SMALLEST)

    def __len__(self) -> int:
        return self._size

    @property
    def keys(self) -> Keys:
        """(n,) the key of each row; a read-only view, valid until the next `admit`."""
        view = self._by_row[: self._size]
        view.flags.writeable = False
        return view

    def lookup(self, keys: Keys) -> Rows:
        """Return the row of each key, −1 for keys without one; any shape."""
        flat = keys.ravel()
        slots = self._slots
        slot = slots.first(flat)
        found = slots.keys[slot]
        rows = slots.rows[slot].astype(np.int64)
        hit = found == flat
        rows[~hit] = -1
        pending = np.flatnonzero(~hit & (found != 0))
        slot = slot[pending]
        while pending.size:
            slot = (slot + 1) & slots.mask
            wanted, found = flat[pending], slots.keys[slot]
            hit = found == wanted
            rows[pending[hit]] = slots.rows[slot[hit]]
            onward = ~hit & (found != 0)
            pending, slot = pending[onward], slot[onward]
        return rows.reshape(keys.shape)

    def admit(self, keys: Keys) -> Rows:
        """Give new keys rows in order of first occurrence, and return the rows of all; any shape.

        Key 0 has no row, nor have new keys once `max_keys` are in: both get −1.
        """
        rows = self.lookup(keys)
        unknown = keys[(rows < 0) & (keys != 0)]
        if not unknown.size:
            return rows
        fresh = unique_in_order(unknown)[0][: self._max_keys - self._size]
        start, end = self._size, self._size + len(fresh)
        self._reserve(end)
        self._by_row[start:end] = fresh
        self._size = end
        self._slots.insert(fresh, np.arange(start, end, dtype=np.int32))
        return self.lookup(keys)

    def _reserve(self, size: int) -> None:
        if size > len(self._by_row):
            grown = np.zeros(max(size, 2 * len(self._by_row)), np.uint64)
            grown[: self._size] = self._by_row[: self._size]
            self._by_row = grown
        if 2 * size > len(self._slots.keys):
            larger = _Slots(1 << (4 * size - 1).bit_length())
            larger.insert(self._by_row[: self._size], np.arange(self._size, dtype=np.int32))
            self._slots = larger

"""A hash index from 64-bit keys to consecutive rows, looked up many keys at a time."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from model.embedding.keys import Keys, Rows
from model.kernels import native, table

_SMALLEST = 1024
_SLOT = np.dtype([("key", np.uint64), ("row", np.int32), ("unused", np.int32)])
"""Key and row side by side: one miss of the caches, not two."""


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
    """`capacity`, a power of two, places of a key and its row each; a free one holds key 0.

    A key that went keeps its place, with row −1: the search for another one does not end there.
    """

    def __init__(self, capacity: int) -> None:
        self._slots = np.zeros(capacity, _SLOT)
        self.keys, self.rows = self._slots["key"], self._slots["row"]
        self.rows[:] = -1
        self.mask = capacity - 1
        self._shift = np.uint64(64 - (capacity.bit_length() - 1))
        self._factor = np.uint64(int.from_bytes(os.urandom(8), "little") | 1)

    def first(self, keys: Keys) -> Rows:
        """Return the slot at which the search for each key begins."""
        return ((keys * self._factor) >> self._shift).astype(np.int64)

    def find(self, keys: Keys) -> Rows:
        """Return the slot of each of (n,) keys, −1 for one that has none and for key 0."""
        slot = self.first(keys)
        found = self.keys[slot]
        hit = (found == keys) & (keys != 0)
        slots = np.where(hit, slot, -1)
        pending = np.flatnonzero(~hit & (found != 0))
        slot = slot[pending]
        while pending.size:
            slot = (slot + 1) & self.mask
            wanted, found = keys[pending], self.keys[slot]
            hit = found == wanted
            slots[pending[hit]] = slot[hit]
            onward = ~hit & (found != 0)
            pending, slot = pending[onward], slot[onward]
        return slots

    def lookup(self, keys: Keys) -> Rows:
        """Return the row of each of (n,) keys, −1 for one that has none and for key 0."""
        if native.library() is not None:
            return table.lookup(keys, self._slots, int(self._factor), int(self._shift))
        slot = self.find(keys)
        rows = self.rows[slot].astype(np.int64)
        rows[slot < 0] = -1
        return rows

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
    """Rows of keys: a new one gets the lowest that no key has; key 0 stands for "none" and never has one.

    Open addressing with linear probing, at most half full, every step over whole arrays: a round compares all
    keys that are not settled yet with one slot each, and few survive the first. The hash is multiplicative
    with a random odd factor (universal, Dietzfelbinger et al. 1997), so nobody can choose keys that meet in
    one slot; the rows do not depend on the factor.

    One thread at a time changes it; `lookup` may run beside that in another. It then says the right row or −1 of keys
    that are just coming in or going, and the right row of all others: a row, once given, stays until its key goes, and
    slots are replaced all at once.
    """

    def __init__(self, max_keys: int = 2**31) -> None:
        self._max_keys = max_keys
        self._by_row = np.zeros(_SMALLEST, np.uint64)
        self._extent = 0
        self._free = np.zeros(0, np.int64)
        self._held = 0
        self._slots = _Slots(2 * _SMALLEST)
        self._taken = 0

    def __len__(self) -> int:
        return self._held

    @property
    def keys(self) -> Keys:
        """(n,) the key of each row, 0 of one that no key has; a read-only view, valid until the next change."""
        view = self._by_row[: self._extent]
        view.flags.writeable = False
        return view

    def lookup(self, keys: Keys) -> Rows:
        """Return the row of each key, −1 for keys without one; any shape."""
        return self._slots.lookup(keys.ravel()).reshape(keys.shape)

    def admit(self, keys: Keys) -> Rows:
        """Give new keys rows in order of first occurrence, and return the rows of all; any shape.

        Key 0 has no row, nor have new keys once `max_keys` are in: both get −1.
        """
        rows = self.lookup(keys)
        unknown = keys[(rows < 0) & (keys != 0)]
        if not unknown.size:
            return rows
        fresh = unique_in_order(unknown)[0][: self._max_keys - len(self)]
        self.give_vacant(fresh)
        return self.lookup(keys)

    def vacant(self, count: int) -> Rows:
        """Return the rows that the next `count` new keys get."""
        reused = self._free[:count]
        return np.concatenate([reused, self._extent + np.arange(count - len(reused))])

    def give_vacant(self, keys: Keys) -> None:
        """Give (n,) distinct keys other than 0, none of which has a row, the rows `vacant(n)`."""
        rows = self.vacant(len(keys))
        self._free = self._free[len(keys) :]
        self._give(keys, rows)

    def place(self, keys: Keys, rows: Rows) -> None:
        """Give (n,) distinct keys other than 0 these rows, each once; nothing may have a row yet."""
        self._give(keys, rows)
        self._free = np.flatnonzero(self.keys == 0)

    def remove(self, keys: Keys) -> None:
        """Take the rows of (n,) distinct keys; those without one are passed over."""
        self.release(self.withdraw(keys))

    def withdraw(self, keys: Keys) -> Rows:
        """Take the rows of (n,) distinct keys, and return them, ascending; no key gets them before `release`."""
        slots = self._slots
        slot = slots.find(keys)
        slot = slot[slot >= 0]
        rows = np.sort(slots.rows[slot].astype(np.int64))
        slots.rows[slot] = -1
        rows = rows[rows >= 0]
        self._by_row[rows] = 0
        self._held -= len(rows)
        return rows

    def release(self, rows: Rows) -> None:
        """Let new keys have rows that were withdrawn."""
        self._free = np.insert(self._free, np.searchsorted(self._free, rows), rows)

    def _give(self, keys: Keys, rows: Rows) -> None:
        """Give distinct keys without a row distinct rows that no key has."""
        end = max(self._extent, int(rows.max(initial=-1)) + 1)
        if end > len(self._by_row):
            grown = np.zeros(max(end, 2 * len(self._by_row)), np.uint64)
            grown[: self._extent] = self._by_row[: self._extent]
            self._by_row = grown
        self._make_room(len(keys))
        self._by_row[rows] = keys
        self._extent = end
        self._held += len(keys)
        slots = self._slots
        slot = slots.find(keys)
        new = slot < 0
        slots.rows[slot[~new]] = rows[~new]
        slots.insert(keys[new], rows[new].astype(np.int32))
        self._taken += int(np.count_nonzero(new))

    def _make_room(self, extra: int) -> None:
        """Keep the slots at most half full; larger ones, or as large ones, have no keys that went."""
        if 2 * (self._taken + extra) <= len(self._slots.keys):
            return
        held = np.flatnonzero(self.keys)
        size = len(held) + extra
        fresh = _Slots(max(2 * _SMALLEST, 1 << (4 * size - 1).bit_length()))
        fresh.insert(self._by_row[held], held.astype(np.int32))
        self._slots, self._taken = fresh, len(held)

"""The embedding table that serves while its next rows are prepared beside it."""

import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.embedding.initial import Initial, initial_vectors
from model.embedding.keys import Keys, Rows
from model.embedding.table import EmbeddingTable, zero_rows

_COPIED = 2**16
"""Rows that are copied at once when a table grows."""


@dataclass(slots=True, eq=False)
class _Leaving:
    """Keys that are to lose their rows, and whether these have the keys' initial vectors yet."""

    keys: Keys
    written: bool = False


@dataclass(frozen=True, slots=True)
class PlacedRows:
    """Vectors that are ready to be written into a table.

    Attributes:
        table: the table that they are for.
        number: what is placed later has a greater one.
        at: (n,) int64 on the device: where in its values they go, ascending.
        vectors: (n, dim) on the device.
        leaving: the keys that have no row from then on.
    """

    table: "ServedTable"
    number: int
    at: Tensor
    vectors: Tensor
    leaving: _Leaving = field(repr=False)


class ServedTable(EmbeddingTable):
    """A table that one thread reads and writes, while another one places what is to be written next.

    Which key has which row is changed by `place` alone, and only where no reader can see it: a new key gets a row
    that holds its initial vector, which is what it had without one. A key that goes gets its initial vector by
    `write`, and a later `place` takes its row; that is given to another key after one more `write`, when no reader can
    be under way that has found it before. So `write` only puts vectors in their places, for new keys as for known
    ones, and what is read between two of them is as the first one left it.

    What was placed is written in that order, or not at all (see `may_write`).
    """

    def __init__(self, dim: int, *, initial: Initial | None, device: torch.device | str = "cpu") -> None:
        super().__init__(dim, initial=initial, device=device)
        self._placing = threading.Lock()
        """Held by whoever changes which key has which row."""
        self._writing = threading.Lock()
        """Held for moments only: by who writes vectors, and by who replaces all values by a larger copy."""
        self._written_while_growing: list[Tensor] | None = None
        self._places = self._writes = 0
        self._last_written = 0
        self._leaving: list[_Leaving] = []
        self._withdrawn: list[tuple[Rows, int]] = []
        """Rows that keys have left, and the number of writes until then."""

    def __len__(self) -> int:
        """Return how many keys have a row, those that are placed and not yet written included."""
        return len(self._index) - sum(len(each.keys) for each in self._leaving)

    @torch.no_grad()
    def place(self, keys: Keys, vectors: Tensor, gone: Keys) -> PlacedRows:
        """Do all of a change but what readers see; may run beside one thread that reads and writes.

        Args:
            keys: (n,) distinct keys other than 0.
            vectors: (n, dim) vectors that they are to have.
            gone: (m,) other distinct keys, which are to have no row; those without one are passed over.
        """
        with self._placing:
            self._take_rows(keys)
            rows = self._rows_of(keys)
            for each in self._leaving:  # this is written last, unless what is placed before never is
                each.keys = np.setdiff1d(each.keys, gone, assume_unique=True)
            left = self._index.lookup(gone)
            leaving = _Leaving(gone[left >= 0])
            if len(leaving.keys):
                self._leaving.append(leaving)
                rows = np.concatenate([rows, left[left >= 0]])
                initial = self._to_device(initial_vectors(leaving.keys, self.dim, self.initial))
                vectors = torch.cat([vectors.to(self._device), initial])
            # In the order of rows, memory is written from end to end: three times as fast.
            order = np.argsort(rows)
            vectors = vectors.to(self._device).index_select(0, self._to_device(order))
            self._places += 1
            return PlacedRows(self, self._places, self._to_device(rows[order] + 1), vectors, leaving)

    def may_write(self, placed: PlacedRows) -> bool:
        """Return whether something is of this table, and nothing that was placed later is written yet."""
        return placed.table is self and placed.number > self._last_written

    @torch.no_grad()
    def write(self, placed: PlacedRows) -> None:
        """Serve what was placed in this table from now on; by the thread that reads."""
        with self._writing:
            self._values.index_copy_(0, placed.at, placed.vectors)
            if self._written_while_growing is not None:
                self._written_while_growing.append(placed.at)
        placed.leaving.written = True
        self._last_written = placed.number
        self._writes += 1

    def _take_rows(self, coming: Keys) -> None:
        """Take the rows of keys that have gone; others may have those that were taken before the last write."""
        unread = [rows for rows, writes in self._withdrawn if writes < self._writes]
        self._withdrawn = [(rows, writes) for rows, writes in self._withdrawn if writes >= self._writes]
        for rows in unread:
            self._index.release(rows)
        staying = []
        for leaving in self._leaving:
            leaving.keys = np.setdiff1d(leaving.keys, coming, assume_unique=True)
            if leaving.written:
                # Writes are counted afterwards: who reads until the next one may still have found the rows.
                self._withdrawn.append((self._index.withdraw(leaving.keys), self._writes))
            else:
                staying.append(leaving)
        self._leaving = staying

    def _rows_of(self, keys: Keys) -> Rows:
        """Return the rows of (n,) distinct keys, after new ones have got some that hold their initial vectors."""
        rows = self._index.lookup(keys)
        new = np.flatnonzero(rows < 0)
        if len(new):
            fresh, rows[new] = keys[new], self._index.vacant(len(new))
            self._grow(2 + int(rows[new].max()))
            initial = self._to_device(initial_vectors(fresh, self.dim, self.initial))
            self._values.index_copy_(0, self._to_device(rows[new] + 1), initial)
            self._index.give_vacant(fresh)
        return rows

    def _grow(self, rows: int) -> None:
        """Make room for values of so many rows, beside who reads and writes the present ones."""
        values = self._values
        if rows <= len(values):
            return
        grown = zero_rows(values, max(rows, 2 * len(values)))
        with self._writing:
            self._written_while_growing = []
        try:
            for start in range(0, len(values), _COPIED):
                some = slice(start, min(start + _COPIED, len(values)))
                grown[some] = values[some]
            with self._writing:
                for at in self._written_while_growing:
                    grown.index_copy_(0, at, values.index_select(0, at))
                self._values = grown
        finally:
            self._written_while_growing = None

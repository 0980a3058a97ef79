"""The embedding table that learns, by row-wise Adagrad."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.embedding.initial import Initial, initial_vectors
from model.embedding.key_index import Keys, Rows, unique_in_order
from model.embedding.table import EmbeddingTable
from model.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Gathered:
    """The vectors a batch needs, as one leaf of the graph.

    Attributes:
        vectors: (1 + U, dim) leaf that requires a gradient: zeros, then a vector for each distinct key.
        positions: (n,) int64 on the device, where in `vectors` each of the n keys is; 0 for key 0.
        rows: (U,) rows of the known keys, −1 for new ones, which come last.
        fresh: (F,) the new keys, in order of first occurrence.
    """

    vectors: Tensor
    positions: Tensor
    rows: Rows
    fresh: Keys

    def embed(self) -> Tensor:
        """Return (n, dim) vectors of the n keys, differentiable; the gradient of row 0, key 0's, means nothing."""
        # Not `embedding`, whose backward takes three times as long on a CPU.
        return self.vectors.index_select(0, self.positions)


class LearnedTable(EmbeddingTable):
    """A table that learns by row-wise Adagrad: one accumulator a row, duplicates summed before squaring.

    s ← s + mean_j g_j²,  w ← w − lr · g / (√s + ε), as in FBGEMM's `EXACT_ROWWISE_ADAGRAD`. s starts at 0:
    gradients of a mean loss are so small that a customary 0.1 would all but stop the learning. A step moves
    a row by at most lr · √dim, so no clipping is needed, and its cost depends on the batch, not on the size
    of the table. Once `max_rows` are in, new keys stay at their initial vector; `dropped` counts how often
    one asked to learn.
    """

    def __init__(self, dim: int, *, initial: Initial | None, max_rows: int, device: torch.device | str = "cpu"):
        super().__init__(dim, initial=initial, max_rows=max_rows, device=device)
        self._max_rows = max_rows
        self.dropped = 0
        self._sums = torch.zeros(1, device=self._device)
        self._touched = np.zeros(1, np.bool_)
        self._place = np.zeros(1, np.int64)

    def take(self, keys: Keys) -> Gathered:
        """Return the vectors of (n,) keys for one step; admits nothing until `step`."""
        rows = self._index.lookup(keys)
        positions = np.zeros(len(keys), np.int64)
        known = np.flatnonzero(rows >= 0)
        held = rows[known]
        # Distinct rows without a sort: of all that write their position to a row's place, one is read back.
        order = np.arange(len(held))
        self._place[held] = order
        distinct = held[self._place[held] == order]
        self._place[distinct] = np.arange(1, len(distinct) + 1)
        positions[known] = self._place[held]
        unknown = np.flatnonzero((rows < 0) & (keys != 0))
        fresh, inverse = unique_in_order(keys[unknown])
        positions[unknown] = 1 + len(distinct) + inverse
        vectors = torch.zeros(1 + len(distinct) + len(fresh), self.dim, device=self._device)
        with torch.no_grad():
            vectors[1 : 1 + len(distinct)] = self._values.index_select(0, self._to_device(distinct + 1))
            vectors[1 + len(distinct) :] = self._to_device(initial_vectors(fresh, self.dim, self.initial))
        rows = np.concatenate([distinct, np.full(len(fresh), -1)])
        return Gathered(vectors.requires_grad_(), self._to_device(positions), rows, fresh)

    @torch.no_grad()
    def step(self, taken: Gathered, *, lr: float, eps: float = 1e-8) -> None:
        """Admit the new keys of `taken` and move its rows against the gradient of `taken.vectors`."""
        gradient = taken.vectors.grad
        if gradient is None:
            return
        known = len(taken.rows) - len(taken.fresh)
        admitted = self._admit(taken.fresh)
        self.dropped += len(taken.fresh) - len(admitted)
        rows = np.concatenate([taken.rows[:known], admitted])
        at = self._to_device(rows + 1)
        gradient = gradient[1 : 1 + len(rows)]
        sums = self._sums.index_select(0, at) + gradient.square().mean(1)
        moved = taken.vectors[1 : 1 + len(rows)] - gradient * (lr / (sums.sqrt() + eps))[:, None]
        self._sums.index_copy_(0, at, sums)
        self._values.index_copy_(0, at, moved)
        self._touched[rows] = True

    def touched(self) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Return keys and vectors of the rows that moved since the last `clear_touched`."""
        return self._export(np.flatnonzero(self._touched[: len(self)]))

    def clear_touched(self) -> None:
        """Forget which rows have moved."""
        self._touched[:] = False

    def all_rows(self) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Return keys and vectors of all rows, in row order."""
        return self._export(np.arange(len(self)))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that `load_state` needs, as arrays by name."""
        keys, vectors = self.all_rows()
        return {
            "keys": keys,
            "vectors": vectors,
            "sums": self._sums[1 : 1 + len(self)].cpu().numpy().copy(),
            "touched": self._touched[: len(self)].copy(),
            "dropped": np.array([self.dropped]),
        }

    def load_state(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `state` of another table of the same dim and seed returned; this one must be new.

        Raises:
            CheckpointError: when it has more rows than this one may have.
        """
        if (rows := len(state["keys"])) > self._max_rows:
            raise CheckpointError(
                f"it has {rows} rows in a table, and max_rows is {self._max_rows}: allow {rows} or more"
            )
        self._admit(state["keys"].astype(np.uint64))
        self._values[1 : 1 + len(self)] = self._to_device(state["vectors"].astype(np.float32))
        self._sums[1 : 1 + len(self)] = self._to_device(state["sums"].astype(np.float32))
        self._touched[: len(self)] = state["touched"]
        self.dropped = int(state["dropped"].item())

    def _admit(self, fresh: Keys) -> Rows:
        """Give rows to new distinct keys while there is room; the rows of those that got one."""
        rows = self._index.admit(fresh)
        rows = rows[rows >= 0]
        self.reserve(0)
        return rows

    def reserve(self, extra: int) -> None:
        """Make room for `extra` more rows, in vectors and in all that is kept beside them."""
        super().reserve(extra)
        capacity = len(self._values)
        if capacity > len(self._sums):
            sums = torch.zeros(capacity, device=self._device)
            sums[: len(self._sums)] = self._sums
            self._sums = sums
            self._touched = np.concatenate([self._touched, np.zeros(capacity - len(self._touched), np.bool_)])
            self._place = np.zeros(capacity, np.int64)

    def _export(self, rows: Rows) -> tuple[Keys, npt.NDArray[np.float32]]:
        vectors = self._values.index_select(0, self._to_device(rows + 1)).cpu().numpy()
        return self._index.keys[rows], vectors

"""Collisionless embedding tables for open-ended keys: one to serve from, one to learn in.

Every key has an initial vector that is a pure function of (seed, key). A key that was never learned needs no
row and no message: worker and trainer compute the same vector.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.embedding.key_index import KeyIndex, Keys, Rows, unique_in_order

INITIAL_STD = 0.5
"""Standard deviation of initial vectors: large, so that equal keys stand out in a dot product at once."""

_GAMMA = np.uint64(0x9E37_79B9_7F4A_7C15)
_LANES = np.uint64(0x0000_FFFF_0000_FFFF)
_LOW = np.uint64(0xFFFF_FFFF)


def mix(words: Keys) -> Keys:
    """Return the output function of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of each word."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return words ^ (words >> np.uint64(31))


def initial_vectors(keys: Keys, dim: int, *, seed: int | None) -> npt.NDArray[np.float32]:
    """Return (n, dim) initial vectors of (n,) keys, with mean 0 and standard deviation `INITIAL_STD`.

    Each coordinate is the scaled sum of the four 16-bit lanes of a splitmix64 word: close to normal, and
    integer arithmetic up to one rounding, so that it is the same to the bit on every machine. Key 0 gives
    zeros, and so does every key without a seed.
    """
    if seed is None:
        return np.zeros((len(keys), dim), np.float32)
    start = mix(keys ^ mix(np.array([seed % 2**64], np.uint64)))
    words = mix(start[:, None] + np.arange(1, dim + 1, dtype=np.uint64) * _GAMMA)
    pairs = (words & _LANES) + ((words >> np.uint64(16)) & _LANES)
    sums = ((pairs & _LOW) + (pairs >> np.uint64(32))).astype(np.float32)
    scale = INITIAL_STD / np.sqrt(4 * (2.0**32 - 1) / 12)
    vectors: npt.NDArray[np.float32] = (sums - np.float32(2 * 0xFFFF)) * np.float32(scale)
    vectors[keys == 0] = 0
    return vectors


class EmbeddingTable:
    """Vectors of the keys that were learned, behind a `KeyIndex`; all others have their initial vector.

    Row r of the index is row r + 1 of `_values`; row 0 stays zero, so that key 0 is looked up like any other.
    """

    def __init__(self, dim: int, *, seed: int | None, max_rows: int = 2**31 - 1, device: torch.device | str = "cpu"):
        self.dim = dim
        self.seed = seed
        self._device = torch.device(device)
        self._index = KeyIndex(max_rows)
        self._values = torch.zeros(1, dim, device=self._device)

    def __len__(self) -> int:
        return len(self._index)

    @torch.inference_mode()
    def gather(self, keys: Keys) -> Tensor:
        """Return (*keys.shape, dim) vectors; changes nothing, whatever the keys."""
        flat = keys.ravel()
        rows = self._index.lookup(flat)
        vectors = self._values.index_select(0, self._to_device(rows + 1))
        unknown = np.flatnonzero((rows < 0) & (flat != 0))
        if unknown.size:
            fresh, inverse = np.unique(flat[unknown], return_inverse=True)
            initial = self._to_device(initial_vectors(fresh, self.dim, seed=self.seed)[inverse])
            vectors.index_copy_(0, self._to_device(unknown), initial)
        return vectors.view(*keys.shape, self.dim)

    @torch.no_grad()
    def assign(self, keys: Keys, vectors: Tensor) -> None:
        """Set the (n, dim) vectors of (n,) distinct keys other than 0, admitting those that are new."""
        self.reserve(len(keys))
        rows = self._index.admit(keys)
        self._values.index_copy_(0, self._to_device(rows + 1), vectors.to(self._device))

    def place(self, keys: Keys, vectors: Tensor) -> "Placed":
        """Do the part of `assign` that changes nothing; may run beside one thread that uses the table."""
        rows = self._index.lookup(keys)
        # In the order of rows, memory is written from end to end: three times as fast. New keys come first.
        order = np.argsort(rows)
        fresh = int(np.count_nonzero(rows < 0))
        known = self._to_device(rows[order[fresh:]] + 1)
        return Placed(self, keys[order[:fresh]], known, vectors.to(self._device)[self._to_device(order)])

    @torch.no_grad()
    def take_over(self, placed: "Placed") -> None:
        """Do the rest of `assign`; what has been admitted since `place` is found again."""
        fresh = len(placed.fresh)
        if fresh:
            self.assign(placed.fresh, placed.vectors[:fresh])
        self._values.index_copy_(0, placed.known, placed.vectors[fresh:])

    def reserve(self, extra: int) -> None:
        """Make room for `extra` more rows; afterwards, admitting that many needs no memory for vectors."""
        self._values = _grown(self._values, len(self._index) + 1 + extra)

    def _to_device(self, array: npt.NDArray[np.int64] | npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


@dataclass(frozen=True, slots=True)
class Placed:
    """Vectors that lie ready to be written into a table.

    Attributes:
        table: the table that `known` are rows of.
        fresh: (F,) keys that had no row.
        known: (K,) int64 on the device, ascending: where in the table's values the other vectors go.
        vectors: (F + K, dim) on the device, those of `fresh` first.
    """

    table: EmbeddingTable
    fresh: Keys
    known: Tensor
    vectors: Tensor


@dataclass(frozen=True, slots=True)
class Taken:
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

    def __init__(self, dim: int, *, seed: int | None, max_rows: int, device: torch.device | str = "cpu"):
        super().__init__(dim, seed=seed, max_rows=max_rows, device=device)
        self.dropped = 0
        self._sums = torch.zeros(1, device=self._device)
        self._touched = np.zeros(1, np.bool_)
        self._place = np.zeros(1, np.int64)

    def take(self, keys: Keys) -> Taken:
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
            vectors[1 + len(distinct) :] = self._to_device(initial_vectors(fresh, self.dim, seed=self.seed))
        rows = np.concatenate([distinct, np.full(len(fresh), -1)])
        return Taken(vectors.requires_grad_(), self._to_device(positions), rows, fresh)

    @torch.no_grad()
    def step(self, taken: Taken, *, lr: float, eps: float = 1e-8) -> None:
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
        """Return keys and vectors of the rows that moved since the last `settle`."""
        return self._export(np.flatnonzero(self._touched[: len(self)]))

    def settle(self) -> None:
        """Forget which rows have moved."""
        self._touched[:] = False

    def everything(self) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Return keys and vectors of all rows, in row order."""
        return self._export(np.arange(len(self)))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that `load_state` needs, as arrays by name."""
        keys, vectors = self.everything()
        return {
            "keys": keys,
            "vectors": vectors,
            "sums": self._sums[1 : 1 + len(self)].cpu().numpy().copy(),
            "touched": self._touched[: len(self)].copy(),
            "dropped": np.array([self.dropped]),
        }

    def load_state(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `state` of another table of the same dim and seed returned; this one must be new."""
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


def _grown(values: Tensor, rows: int) -> Tensor:
    """Return `values` with room for `rows` rows: itself, or a copy at least twice as long."""
    if rows <= len(values):
        return values
    grown = values.new_zeros(max(rows, 2 * len(values)), values.shape[1])
    grown[: len(values)] = values
    return grown

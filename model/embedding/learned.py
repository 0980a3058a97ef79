"""The embedding table that learns, by row-wise Adagrad, and forgets what nobody reads any more."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.embedding.admission import Admission
from model.embedding.initial import Initial, initial_vectors
from model.embedding.key_index import unique_in_order
from model.embedding.keys import Keys, Rows
from model.embedding.recency import Recency
from model.embedding.table import EmbeddingTable, zero_rows
from model.errors import CheckpointError
from model.kernels import native, table

KEY_EVENTS = "admitted", "refused", "expired", "evicted", "dropped"
"""What happens to keys: one gets a row; one comes to learn and was not seen often enough; a row goes since it was not
touched for long; one goes since the table is full; a key comes in a step of more keys than there may be rows."""
_EVICTED = 64
"""A full table forgets at least this part of its rows at once: finding the coldest means looking at all."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The vectors a batch needs, as one leaf of the graph.

    Attributes:
        vectors: (1 + U, dim) leaf that requires a gradient: zeros, then a vector for each distinct key.
        positions: (n,) int64 on the device, where in `vectors` each of the n keys is; 0 for key 0.
    """

    vectors: Tensor
    positions: Tensor

    def embed(self) -> Tensor:
        """Return (n, dim) vectors of the n keys, differentiable; the gradient of row 0, key 0's, means nothing."""
        # Not `embedding`, whose backward takes three times as long on a CPU.
        return self.vectors.index_select(0, self.positions)


@dataclass(frozen=True, slots=True)
class Gathered(Leaf):
    """The same, with the rows of the table that are to move.

    Attributes:
        rows: (U,) rows of the known keys, −1 for new ones, which come last.
        fresh: (F,) the new keys, in order of first occurrence.
        seen: (F,) how often each is among the n keys.
    """

    rows: Rows
    fresh: Keys
    seen: npt.NDArray[np.int64]


class LearnedTable(EmbeddingTable):
    """A table that learns by row-wise Adagrad: one accumulator a row, duplicates summed before squaring.

    s ← s + mean_j g_j²,  w ← w − lr · g / (√s + ε), as in FBGEMM's `EXACT_ROWWISE_ADAGRAD`. s starts at 0:
    gradients of a mean loss are so small that a customary 0.1 would all but stop the learning. A step moves
    a row by at most lr · √dim, so no clipping is needed, and its cost depends on the batch, not on the size
    of the table.

    It forgets, as Monolith's hash table does (Liu et al., arXiv 2209.07663): a key gets a row once it was seen often
    enough (`Admission`); a row that no step has moved for `expire_after_s` of event time goes, with its accumulator;
    when more than `max_rows` are wanted, those that were moved longest ago go, but none of the present step. A key
    without a row has its initial vector, whether it had a row before or not. What went is given to the next keys.

    Attributes:
        counts: how often each of `KEY_EVENTS` has happened.
    """

    def __init__(
        self,
        dim: int,
        *,
        initial: Initial | None,
        max_rows: int,
        admission: Admission | None = None,
        expire_after_s: float = 0.0,
        device: torch.device | str = "cpu",
    ):
        super().__init__(dim, initial=initial, max_rows=max_rows, device=device)
        self._max_rows = max_rows
        self.counts: Counter[str] = Counter()
        self._admission = admission or Admission()
        self._recency = Recency(expire_after_s)
        self._sums = torch.zeros(1, device=self._device)
        self._touched = np.zeros(1, np.bool_)
        self._published = np.zeros(1, np.bool_)
        self._gone: list[Keys] = []
        self._memo = np.zeros(1, np.uint32)

    def advance(self, now_ms: int) -> None:
        """Move event time on, unless it is that far already; rows that have expired may go."""
        if self._recency.advance(now_ms):
            self._release(self._recency.expired(self._held()), "expired")

    def take(self, keys: Keys, times: npt.NDArray[np.int64] | None = None) -> Gathered:
        """Return the vectors of (n,) keys for one step; admits nothing until `step`.

        Args:
            keys: of a batch.
            times: (n,) how often each was seen; None for once.
        """
        rows = self._index.lookup(keys)
        distinct, positions = self._distinct(rows)
        unknown = np.flatnonzero((rows < 0) & (keys != 0))
        fresh, inverse = unique_in_order(keys[unknown])
        positions[unknown] = 1 + len(distinct) + inverse
        vectors = torch.zeros(1 + len(distinct) + len(fresh), self.dim, device=self._device)
        with torch.no_grad():
            self._rows(distinct + 1, vectors[1 : 1 + len(distinct)])
            vectors[1 + len(distinct) :] = self._to_device(initial_vectors(fresh, self.dim, self.initial))
        rows = np.concatenate([distinct, np.full(len(fresh), -1)])
        weights = None if times is None else times[unknown]
        seen = np.bincount(inverse, weights, minlength=len(fresh)).astype(np.int64)
        return Gathered(vectors.requires_grad_(), self._to_device(positions), rows, fresh, seen)

    @torch.no_grad()
    def step(self, taken: Gathered, *, lr: float, eps: float = 1e-8) -> None:
        """Admit the new keys of `taken` that may have a row, and move its rows against the gradient of its vectors."""
        gradient = taken.vectors.grad
        if gradient is None:
            return
        known = taken.rows[: len(taken.rows) - len(taken.fresh)]
        wanted = np.flatnonzero(self._admission.admits(taken.fresh, taken.seen))
        admitted = self._admit(taken.fresh[wanted], known)
        self.counts["refused"] += len(taken.fresh) - len(wanted)
        rows = np.concatenate([known, admitted])
        places = 1 + np.append(np.arange(len(known)), len(known) + wanted[: len(admitted)])
        move = table.adagrad if table.usable(self._values) else _adagrad
        move(rows + 1, taken.vectors, places, gradient, self._values, self._sums, lr=lr, eps=eps)
        table.set_rows(self._touched, rows, True)
        self._recency.touch(rows)

    def touched(self) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Return keys and vectors of the rows that moved since the last `clear_touched`."""
        return self._export(np.flatnonzero(self._touched))

    def gone(self) -> Keys:
        """Return the keys without a row whose row was published, and went since the last `clear_touched`."""
        keys = self._lost()
        without: Keys = keys[self._index.lookup(keys) < 0]
        return without

    def clear_touched(self) -> None:
        """Forget which rows have moved and which keys have gone: that was published."""
        self._published |= self._touched
        self._touched[:] = False
        self._gone = []

    def publish_all(self) -> tuple[Keys, npt.NDArray[np.float32]]:
        """Return keys and vectors of all rows, in row order; when one of them goes, `gone` says so."""
        rows = np.flatnonzero(self._held())
        self._published[rows] = True
        return self._export(rows)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all that `load_state` needs, as arrays by name."""
        rows = np.flatnonzero(self._held())
        keys, vectors = self._export(rows)
        return {
            "keys": keys,
            "rows": rows.astype(np.int32),
            "vectors": vectors,
            "sums": self._sums.index_select(0, self._to_device(rows + 1)).cpu().numpy(),
            "touched": self._touched[rows],
            "published": self._published[rows],
            "gone": self._lost(),
            "counts": np.array([self.counts[event] for event in KEY_EVENTS]),
            **self._recency.state(rows),
            **self._admission.state(),
        }

    def load_state(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Take over what `state` of another table of the same dim and seed returned; this one must be new.

        What is admitted, expires and goes first is as set for this one.

        Raises:
            CheckpointError: when it has more rows than this one may have.
        """
        if (count := len(state["keys"])) > self._max_rows:
            raise CheckpointError(
                f"it has {count} rows in a table, and max_rows is {self._max_rows}: allow {count} or more"
            )
        rows = state["rows"].astype(np.int64)
        self._index.place(state["keys"].astype(np.uint64), rows)
        self.reserve(0)
        at = self._to_device(rows + 1)
        self._values[at] = self._to_device(state["vectors"].astype(np.float32))
        self._sums[at] = self._to_device(state["sums"].astype(np.float32))
        self._touched[rows] = state["touched"]
        self._published[rows] = state["published"]
        self._gone = [state["gone"].astype(np.uint64)]
        self.counts = Counter(dict(zip(KEY_EVENTS, state["counts"].tolist(), strict=True)))
        self._recency.load_state(rows, state)
        self._admission.load_state(state)

    def _distinct(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the distinct ones of (n,) rows, and for each 1 + its place among them; −1 is left out, at place 0."""
        if native.library() is not None:
            return table.distinct_rows(rows, self._memo)
        places = np.zeros(len(rows), np.int64)
        known = np.flatnonzero(rows >= 0)
        held, order = rows[known], np.arange(len(known), dtype=np.uint32)
        # Without a sort: of all that write their position to a row's memory, the first is the last one to do so.
        self._memo[held[::-1]] = order[::-1]
        distinct = held[self._memo[held] == order]
        self._memo[distinct] = order[: len(distinct)]
        places[known] = self._memo[held] + np.int64(1)
        return distinct, places

    def _lost(self) -> Keys:
        """Return the keys that are to be taken back from followers, unless their new row is published before."""
        # Also those that have a row again: it may go before it is published, and then nothing else tells of the key.
        keys: Keys = np.unique(np.concatenate([*self._gone, np.zeros(0, np.uint64)]))
        return keys

    def _held(self) -> npt.NDArray[np.bool_]:
        """Return (n,) which rows some key has."""
        held: npt.NDArray[np.bool_] = self._index.keys != 0
        return held

    def _admit(self, fresh: Keys, used: Rows) -> Rows:
        """Give rows to new distinct keys, if need be those of others that are not used; returns the rows given."""
        lacking = len(self) + len(fresh) - self._max_rows
        if lacking > 0:
            held = self._held()
            held[used] = False
            self._release(self._recency.coldest(held, max(lacking, self._max_rows // _EVICTED)), "evicted")
        rows = self._index.admit(fresh)
        rows = rows[rows >= 0]
        self.reserve(0)
        self.counts["admitted"] += len(rows)
        self.counts["dropped"] += len(fresh) - len(rows)
        return rows

    def _release(self, rows: Rows, event: str) -> None:
        """Take the rows of their keys, and make them as good as new."""
        if not len(rows):
            return
        keys = self._index.keys[rows]
        if self._published[rows].any():
            self._gone.append(keys[self._published[rows]])
        self._index.remove(keys)
        self._sums[self._to_device(rows + 1)] = 0
        self._touched[rows] = self._published[rows] = False
        self.counts[event] += len(rows)

    def reserve(self, extra: int) -> None:
        """Make room for `extra` more rows, in vectors and in all that is kept beside them."""
        super().reserve(extra)
        capacity = len(self._values)
        if capacity > len(self._sums):
            sums = zero_rows(self._values, capacity, dim=1)[:, 0]
            sums[: len(self._sums)] = self._sums
            self._sums = sums
            more = np.zeros(capacity - len(self._touched), np.bool_)
            self._touched = np.concatenate([self._touched, more])
            self._published = np.concatenate([self._published, more])
            self._recency.reserve(capacity)
            self._memo = np.zeros(capacity, np.uint32)

    def _export(self, rows: Rows) -> tuple[Keys, npt.NDArray[np.float32]]:
        vectors = self._values.index_select(0, self._to_device(rows + 1)).cpu().numpy()
        return self._index.keys[rows], vectors


def _adagrad(
    rows: Rows, vectors: Tensor, taken: Rows, gradients: Tensor, values: Tensor, sums: Tensor, *, lr: float, eps: float
) -> None:
    """Do what `table.adagrad` does, where it is not compiled."""
    at, chosen = (torch.from_numpy(places).to(values.device) for places in (rows, taken))
    gradient = gradients.index_select(0, chosen)
    moved = sums.index_select(0, at) + gradient.square().mean(1)
    sums.index_copy_(0, at, moved)
    values.index_copy_(0, at, vectors.index_select(0, chosen) - gradient * (lr / (moved.sqrt() + eps))[:, None])

"""A collisionless embedding table for open-ended keys.

Every key has an initial vector that is a pure function of (seed, key). A key that was never learned needs no
row and no message: worker and trainer compute the same vector.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.embedding.initial import Initial, initial_vectors
from model.embedding.key_index import KeyIndex
from model.embedding.keys import Keys, Rows
from model.kernels import table


class EmbeddingTable:
    """Vectors of the keys that were learned, behind a `KeyIndex`; all others have their initial vector.

    Row r of the index is row r + 1 of `_values`; row 0 stays zero, so that key 0 is looked up like any other.
    """

    def __init__(
        self, dim: int, *, initial: Initial | None, max_rows: int = 2**31 - 1, device: torch.device | str = "cpu"
    ):
        self.dim = dim
        self.initial = initial
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
        vectors = self._rows(rows + 1)
        unknown = np.flatnonzero((rows < 0) & (flat != 0))
        if unknown.size:
            fresh, inverse = np.unique(flat[unknown], return_inverse=True)
            initial = self._to_device(initial_vectors(fresh, self.dim, self.initial)[inverse])
            vectors.index_copy_(0, self._to_device(unknown), initial)
        return vectors.view(*keys.shape, self.dim)

    @torch.no_grad()
    def assign(self, keys: Keys, vectors: Tensor) -> None:
        """Set the (n, dim) vectors of (n,) distinct keys other than 0, admitting those that are new."""
        self.reserve(len(keys))
        rows = self._index.admit(keys)
        self._values.index_copy_(0, self._to_device(rows + 1), vectors.to(self._device))

    def reserve(self, extra: int) -> None:
        """Make room for `extra` more rows; afterwards, admitting that many needs no memory for vectors."""
        # A new key gets a row that another one has left, if there is one.
        self._values = _grown(self._values, 1 + max(len(self._index.keys), len(self._index) + extra))

    def _rows(self, places: Rows, out: Tensor | None = None) -> Tensor:
        """Return (n, dim) rows of `_values`, written to `out` where that is given."""
        if table.usable(self._values):
            return table.gather_rows(self._values, places, out)
        return torch.index_select(self._values, 0, self._to_device(places), out=out)

    def _to_device(self, array: npt.NDArray[np.int64] | npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _grown(values: Tensor, rows: int) -> Tensor:
    """Return `values` with room for `rows` rows: itself, or a copy at least twice as long."""
    if rows <= len(values):
        return values
    grown = zero_rows(values, max(rows, 2 * len(values)))
    grown[: len(values)] = values
    return grown


def zero_rows(values: Tensor, rows: int, dim: int | None = None) -> Tensor:
    """Return (rows, dim) zeros where (N, dim) float32 `values` lie, or of another `dim`."""
    size = rows, values.shape[1] if dim is None else dim
    # On Linux, numpy asks for huge pages: fewer rows miss the TLB.
    return torch.from_numpy(np.zeros(size, np.float32)) if values.device.type == "cpu" else values.new_zeros(size)

"""The rows of an embedding table on a CPU, compiled: found by key, gathered, and moved; only where `usable`.

In a large table nearly every row is a miss of the caches. `table.cpp` asks for rows some steps before it reads them.
"""

import ctypes
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.kernels import native
from model.kernels.signatures import declare

Rows = npt.NDArray[np.int64]


def usable(values: Tensor) -> bool:
    """Return whether the rows of such a table are gathered and moved here."""
    return values.device.type == "cpu" and values.dtype == torch.float32 and native.library() is not None


def lookup(keys: npt.NDArray[np.uint64], slots: npt.NDArray[np.void], factor: int, shift: int) -> Rows:
    """Return the rows of (n,) keys in a hash table, −1 for those without one; only where there is a `native.library`.

    Args:
        keys: to look up.
        slots: (2^b,) of 16 bytes: the key in each place, uint64, 0 where it is free; its row, int32.
        factor: by which a key is multiplied; the upper bits say where its search begins.
        shift: 64 − b.
    """
    keys = np.ascontiguousarray(keys)
    found = np.empty(len(keys), np.int64)
    _library().find_rows(
        keys.ctypes.data, len(keys), slots.ctypes.data, len(slots) - 1, factor, shift, found.ctypes.data
    )
    return found


def distinct_rows(rows: Rows, memo: npt.NDArray[np.uint32]) -> tuple[Rows, Rows]:
    """Return the distinct rows in order of first occurrence, and for each of (n,) 1 + its place among them.

    Args:
        rows: (n,); −1 is left out, and has place 0.
        memo: (rows of the table,) memory that keeps nothing between two calls.
    """
    distinct, places = np.empty_like(rows), np.empty_like(rows)
    known = _library().distinct_rows(
        rows.ctypes.data, len(rows), memo.ctypes.data, distinct.ctypes.data, places.ctypes.data
    )
    return distinct[:known], places


def gather_rows(values: Tensor, rows: Rows, out: Tensor | None = None) -> Tensor:
    """Return the (n, dim) rows of (N, dim) values, written to `out` where that is given."""
    out = values.new_empty(len(rows), values.shape[1]) if out is None else out
    _library().gather_rows(values.data_ptr(), values.shape[1], rows.ctypes.data, len(rows), out.data_ptr())
    return out


def set_rows(values: npt.NDArray[np.bool_] | npt.NDArray[np.int64], rows: Rows, value: int) -> None:
    """Set (n,) rows of (N,) values to a value, compiled or not."""
    if native.library() is None:
        values[rows] = value
    else:
        _library().set_rows(rows.ctypes.data, len(rows), values.itemsize, value, values.ctypes.data)


def adagrad(
    rows: Rows, vectors: Tensor, taken: Rows, gradients: Tensor, values: Tensor, sums: Tensor, *, lr: float, eps: float
) -> None:
    """Move (n,) distinct rows of a table against their gradients, as `LearnedTable` has it.

    Args:
        rows: of the table.
        vectors: (U, dim) as they were when the step began.
        taken: (n,) where in `vectors` and `gradients` each row is.
        gradients: (U, dim).
        values: (N, dim), contiguous: the rows.
        sums: (N,) their accumulators.
        lr: learning rate.
        eps: added to the root of an accumulator.
    """
    vectors, gradients = vectors.contiguous(), gradients.contiguous()
    _library().adagrad(
        rows.ctypes.data, taken.ctypes.data, len(rows), vectors.data_ptr(), gradients.data_ptr(), values.shape[1],
        lr, eps, values.data_ptr(), sums.data_ptr(),
    )  # fmt: skip


@cache
def _library() -> ctypes.PyDLL:
    """Return the kernels by calls that keep the interpreter: nobody changes a table meanwhile, and all are short."""
    kernel = native.library()
    assert kernel is not None
    keeping = ctypes.PyDLL(kernel._name)
    declare(keeping)
    return keeping

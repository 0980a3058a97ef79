"""The attention on a CPU while learning, compiled: what `by_user` computes, with a backward of its own.

`learning.cpp` makes layer 1 of the queries itself, keeps a tile of the hidden layer in registers, and computes it again
in the backward. Keys are laid out once for all attentions of a batch. With several threads each has users of its own,
and the gradients of the parameters are added up in the order of threads.
"""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.kernels import native

_TILE, _ROW = 48, 32
"""Behaviours are laid out in a multiple of what any build takes at a time; so are the widths of rows."""
_ALL = 2**62
"""Candidates of a user all of whose candidates are read."""


class _Task(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_void_p) for name in ("keys", "tiles", "rows", "ends", "counts")),
                ("queries", ctypes.c_void_p * 2), ("match", ctypes.c_void_p),
                ("unit", ctypes.POINTER(native.UnitPointers)),
                *((name, ctypes.c_int64) for name in ("users", "length", "width", "span", "columns", "candidates",
                                                      "hidden", "number"))]  # fmt: skip


class _UnitGradient(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("first", "bias", "second", "second_bias")]


def usable(keys: Tensor) -> bool:
    """Return whether such keys are attended to here, with gradients."""
    ours = keys.device.type == "cpu" and keys.dtype == torch.float32 and torch.is_grad_enabled()
    return ours and not torch.compiler.is_compiling() and native.library() is not None


class Laid(NamedTuple):
    """The keys of B users, laid out for the kernel.

    Attributes:
        keys: (B, L, d), as they came: to them goes the gradient.
        tiles: (B, L padded, d) floats, by tile; zeros at the end of a user's last tile.
        rows: (B, L, d padded); `keys` themselves where they are as wide as that.
        ends: (B,) int64, how many behaviours are read of each.
        counts: (B,) int64, how many candidates each has.
    """

    keys: Tensor
    tiles: Tensor
    rows: Tensor
    ends: Tensor
    counts: Tensor


def lay_out(keys: Tensor, ends: list[int], counts: Tensor | None) -> Laid:
    """Lay keys out for all attentions of a batch; only where `usable`.

    Args:
        keys: (B, L, d), zeros where masked.
        ends: of each user, how many behaviours are read.
        counts: (B,) int64, how many candidates of each user are read; None for all.
    """
    kernel = native.library()
    assert kernel is not None
    keys = keys.contiguous()
    B, L, d = keys.shape
    counts = torch.full((B,), _ALL) if counts is None else counts.contiguous()
    tiles = keys.new_empty(B, _up(L, _TILE), d)
    rows = keys.detach() if d % _ROW == 0 else keys.new_empty(B, L, _up(d, _ROW))
    laid = Laid(keys, tiles, rows, torch.tensor(ends), counts)
    copied = None if d % _ROW == 0 else rows.data_ptr()
    kernel.lay_out_keys(ctypes.byref(_task(laid)), tiles.data_ptr(), copied)
    return laid


def readouts(laid: Laid, queries: list[Tensor], unit: native.Unit, match: Tensor | None) -> Tensor:
    """Return the (B, C, d) sums of behaviours by attention weight, differentiable once in every tensor.

    Args:
        laid: the behaviours.
        queries: (B, C, d) each, one or two.
        unit: its parameters; its LayerNorm is left to the caller.
        match: (B, C, L) addition to the attention logits.
    """
    result: Tensor = _Attention.apply(laid, *unit[:4], match, laid.keys, *queries)  # type: ignore[no-untyped-call]
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        laid: Laid,
        first: Tensor,
        bias: Tensor,
        second: Tensor,
        second_bias: Tensor,
        match: Tensor | None,
        keys: Tensor,
        *queries: Tensor,
    ) -> Tensor:
        kernel = native.library()
        assert kernel is not None
        queries = tuple(query.contiguous() for query in queries)
        match = None if match is None else match.contiguous()
        B, C, d = queries[0].shape
        unit = native.Unit(first, bias, second, second_bias)
        out, weights = queries[0].new_zeros(B, C, d), queries[0].new_empty(B, C, keys.shape[1])
        task = _task(laid, unit, queries, match)
        kernel.attend(ctypes.byref(task), out.data_ptr(), weights.data_ptr(), _threads(weights))
        ctx.save_for_backward(laid.tiles, laid.rows, weights, match, *unit[:4], keys, *queries)
        ctx.laid = laid.ends, laid.counts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernel = native.library()
        assert kernel is not None
        tiles, rows, weights, match, *unit, keys = ctx.saved_tensors[:9]
        queries = ctx.saved_tensors[9:]
        laid = Laid(keys, tiles, rows, *ctx.laid)
        threads = _threads(weights)
        gradient = gradient.contiguous()
        d_keys, d_queries = torch.empty_like(keys), [torch.zeros_like(query) for query in queries]
        d_match = None if match is None else torch.zeros_like(match)
        sums = [each.new_zeros(threads, *each.shape) for each in unit]
        task = _task(laid, native.Unit(*unit), queries, match)
        of_threads = [_UnitGradient(*(each.data_ptr() for each in part)) for part in zip(*sums, strict=True)]
        kernel.attend_backward(
            ctypes.byref(task), gradient.data_ptr(), weights.data_ptr(), d_keys.data_ptr(),
            (ctypes.c_void_p * 2)(*(each.data_ptr() for each in d_queries)), native.pointer_to(d_match),
            (_UnitGradient * threads)(*of_threads), threads,
        )  # fmt: skip
        return None, *(each.sum(dim=0) for each in sums), d_match, d_keys, *d_queries


def _task(
    laid: Laid, unit: native.Unit | None = None, queries: tuple[Tensor, ...] = (), match: Tensor | None = None
) -> _Task:
    (B, L, d), (span, columns) = laid.keys.shape, (laid.tiles.shape[1], laid.rows.shape[2])
    return _Task(
        *(each.data_ptr() for each in laid), (ctypes.c_void_p * 2)(*(query.data_ptr() for query in queries)),
        native.pointer_to(match), None if unit is None else ctypes.pointer(native.unit_pointers(unit)), B, L, d, span,
        columns, queries[0].shape[1] if queries else 0, 0 if unit is None else len(unit.first), len(queries),
    )  # fmt: skip


def _threads(weights: Tensor) -> int:
    return min(torch.get_num_threads(), len(weights)) if weights.numel() >= native.THREADED else 1


def _up(size: int, to: int) -> int:
    return -(-size // to) * to

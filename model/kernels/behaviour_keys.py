"""The keys of behaviours, put together from rows of several tables; while learning on a CPU, compiled.

Looked up table by table, each (B, L, d) tensor is written and read again several times, and so is each gradient. The
compiled form writes it once, and its backward reads it once. Everywhere else torch does the same.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.kernels import native


class Rows(NamedTuple):
    """Rows of a table to be looked up.

    Attributes:
        vectors: (R, w).
        positions: (n,) int64 in [0, R).
    """

    vectors: Tensor
    positions: Tensor

    def looked_up(self) -> Tensor:
        """Return the (n, w) rows, differentiable."""
        # Not `embedding`, whose backward takes three times as long on a CPU.
        return self.vectors.index_select(0, self.positions)


class _Rows(ctypes.Structure):
    _fields_ = [("vectors", ctypes.c_void_p), ("positions", ctypes.c_void_p), ("width", ctypes.c_int64)]


def usable(tables: Sequence[Rows]) -> bool:
    """Return whether such rows are put together here by the compiled kernel."""
    ours = all(each.vectors.device.type == "cpu" and each.vectors.dtype == torch.float32 for each in tables)
    return ours and native.library() is not None


def embed_keys(side_by_side: Sequence[Rows], added: Sequence[Rows], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (B, L, d) keys of (B, L) behaviours, zeros where masked, and their (B, d) sums, differentiable once.

    Args:
        side_by_side: of B · L rows each, whose widths make d together.
        added: of B · L rows of width d.
        mask: (B, L) bool, True where there is a behaviour.
    """
    if usable([*side_by_side, *added]):
        tables = [*side_by_side, *added]
        positions = [each.positions for each in tables]
        keys, sums = _Keys.apply(mask, len(side_by_side), positions, *(each.vectors for each in tables))  # type: ignore[no-untyped-call]
        return keys, sums
    whole = torch.cat([each.looked_up() for each in side_by_side], dim=-1)
    for each in added:
        whole = whole + each.looked_up()
    keys = whole.view(*mask.shape, -1).masked_fill(~mask.unsqueeze(-1), 0.0)
    return keys, keys.sum(dim=1)


class _Keys(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mask: Tensor, beside: int, positions: list[Tensor], *vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        kernel = native.library()
        assert kernel is not None
        (B, L), d = mask.shape, sum(each.shape[1] for each in vectors[:beside])
        mask, vectors = mask.contiguous(), tuple(each.contiguous() for each in vectors)
        positions = [each.contiguous().view(-1) for each in positions]
        keys, totals = torch.empty(B, L, d), torch.empty(B, d)
        kernel.embed_keys(
            *_tables(vectors, positions, beside), mask.data_ptr(), B, L, d, keys.data_ptr(), totals.data_ptr()
        )
        ctx.known = mask, beside, positions, [each.shape for each in vectors]
        return keys, totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_keys: Tensor, of_totals: Tensor) -> tuple[Tensor | None, ...]:
        kernel = native.library()
        assert kernel is not None
        mask, beside, positions, shapes = ctx.known
        of_keys, of_totals = of_keys.contiguous(), of_totals.contiguous()
        gradients, buffer = [torch.zeros(shape) for shape in shapes], torch.empty(of_keys.shape[2])
        kernel.embed_keys_backward(
            *_tables(gradients, positions, beside), mask.data_ptr(), *of_keys.shape, of_keys.data_ptr(),
            of_totals.data_ptr(), buffer.data_ptr(),
        )  # fmt: skip
        return None, None, None, *gradients


def _tables(vectors: Sequence[Tensor], positions: Sequence[Tensor], beside: int) -> tuple[Any, ...]:
    rows = [_Rows(each.data_ptr(), at.data_ptr(), each.shape[1]) for each, at in zip(vectors, positions, strict=True)]
    more = len(rows) - beside
    return (_Rows * beside)(*rows[:beside]), beside, (_Rows * more)(*rows[beside:]), more

"""The attention on a CPU in one pass over registers: compiled when samstream is installed, where there is a compiler.

Torch makes the product, reads it to take its sigmoid, and reads it again to sum it up; and its sigmoid takes as long as
the product. `attention.cpp` does all three for a tile at a time, with one division for four sigmoids. A weight differs
from torch's by some 1e-6.
"""

import ctypes
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

TILE = 24
"""Behaviours at a time."""

UNITS = 4
"""Hidden units at a time."""

THREADED = 100_000
"""Candidates times behaviours from which a second thread is worth its start."""

_INSTRUCTIONS = ("AVX2", "AVX512")


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel; None where it was not built, cannot run, or `SAMSTREAM_NATIVE` is 0."""
    if os.environ.get("SAMSTREAM_NATIVE") == "0" or torch.backends.cpu.get_cpu_capability() not in _INSTRUCTIONS:
        return None
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_attention{suffix}")
        if path.exists():
            found = ctypes.CDLL(str(path))
            pointer, size = ctypes.c_void_p, ctypes.c_int64
            found.attention_weights.argtypes = [pointer, pointer, ctypes.c_float, *[pointer] * 3, *[size] * 5]
            found.attention_weights.restype = None
            return found
    return None


def usable(keys: Tensor) -> bool:
    """Return whether this kernel can take such keys now; it computes no gradients."""
    ours = keys.device.type == "cpu" and keys.dtype == torch.float32 and not torch.is_grad_enabled()
    return ours and library() is not None


class Tiles:
    """The behaviours of B users, laid out for the kernel once for all passes; each user only as long as it is.

    Args:
        keys: (B, L, d + 1), zero where padded, the last component 1.
        mask: (B, L) bool.
    """

    def __init__(self, keys: Tensor, mask: Tensor) -> None:
        ends = (mask * torch.arange(1, mask.shape[1] + 1)).amax(dim=1).tolist()
        self._users = [user[:end] for user, end in zip(keys, ends, strict=True)]
        self._tiles = [_tiled(user) for user in self._users]

    def readouts(self, first: Tensor, second: Tensor, bias: float, match: Tensor | None) -> Tensor:
        """Return the (B, C, d) sums of behaviours by attention weight.

        Args:
            first: (B, h, C, d + 1) effective weights of layer 1.
            second: (h,) weights of layer 2.
            bias: of layer 2.
            match: (B, C, L) addition to the attention logits.
        """
        kernel = library()
        assert kernel is not None
        if missing := -len(second) % UNITS:
            first, second = functional.pad(first, (0, 0, 0, 0, 0, missing)), functional.pad(second, (0, missing))
        first, second = first.contiguous(), second.contiguous()
        B, h, C, width = first.shape
        out = first.new_empty(B, C, width - 1)
        for b, (user, tiles) in enumerate(zip(self._users, self._tiles, strict=True)):
            bonus = None if match is None else match[b, :, : len(user)].contiguous()
            weights = first.new_empty(C, tiles.shape[0] * TILE)
            threads = torch.get_num_threads() if C * len(user) >= THREADED else 1
            kernel.attention_weights(
                first[b].data_ptr(), second.data_ptr(), bias, tiles.data_ptr(),
                None if bonus is None else bonus.data_ptr(), weights.data_ptr(), C, h, width, len(user), threads,
            )  # fmt: skip
            torch.mm(weights[:, : len(user)], user[:, :-1], out=out[b])
        return out


def _tiled(user: Tensor) -> Tensor:
    """Return (tiles, d + 1, TILE) of (n, d + 1) behaviours, zero beyond them."""
    padded = functional.pad(user, (0, 0, 0, -len(user) % TILE))
    return padded.view(-1, TILE, user.shape[1]).mT.contiguous()

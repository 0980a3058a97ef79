"""Attention weights on a CPU: both sigmoids and the sum between them in one pass, where a compiler built it.

torch goes through memory for every operation and spends 0.9 ns on a sigmoid (one thread, AVX2); this spends about a
third. Installing builds it from `_attention.c` if there is a compiler; `available` is False where there was none.
"""

import ctypes
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

THREADS = 3
"""The kernel runs in one thread: with more of them, torch is faster."""


def _load() -> Callable[..., None] | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_attention{suffix}")
        if path.exists():
            try:
                function = ctypes.CDLL(str(path)).attention_weights
            except (OSError, AttributeError):
                return None  # of another platform
            pointer, size = ctypes.c_void_p, ctypes.c_ssize_t
            function.argtypes = [
                pointer, pointer, ctypes.c_float, pointer, size, pointer, size, size, size, size,
            ]  # fmt: skip
            function.restype = None
            return function
    return None


_function = _load()
available = _function is not None
"""Whether the kernel was built."""


def attention_weights(hidden: Tensor, second: Tensor, bias: float, match: Tensor | None, out: Tensor) -> None:
    """Write σ(match + bias + Σ_h second_h · σ(hidden_h)) to `out`, without gradients; may overwrite `hidden`.

    By the kernel for float32 on the CPU, with an error below 3e-7; by torch for all else.

    Args:
        hidden: (h, C, L), contiguous.
        second: (h,).
        bias: added to every logit.
        match: (C, L), rows contiguous.
        out: (C, L), rows contiguous.
    """
    tensors = [hidden, second, out] if match is None else [hidden, second, out, match]
    fits = all(each.dtype == torch.float32 and each.device.type == "cpu" for each in tensors)
    if _function is None or not fits or torch.get_num_threads() > THREADS:
        by_torch(hidden, second, bias, match, out)
    else:
        by_kernel(hidden, second, bias, match, out)


def by_torch(hidden: Tensor, second: Tensor, bias: float, match: Tensor | None, out: Tensor) -> None:
    """Do as `attention_weights` says, in torch."""
    h, C, L = hidden.shape
    logits = (second @ hidden.sigmoid_().view(h, C * L)).view(C, L).add_(bias)
    if match is not None:
        logits += match
    torch.sigmoid(logits, out=out)


def by_kernel(hidden: Tensor, second: Tensor, bias: float, match: Tensor | None, out: Tensor) -> None:
    """Do as `attention_weights` says, in C; float32 on the CPU only.

    Raises:
        ValueError: when a tensor has another shape or layout than `attention_weights` asks for.
    """
    h, C, L = hidden.shape
    second = second.contiguous()
    rows = [out] if match is None else [out, match]
    if not hidden.is_contiguous() or second.shape != (h,):
        raise ValueError(f"hidden must be contiguous, second of shape ({h},)")
    if any(each.shape != (C, L) or (L > 1 and each.stride(1) != 1) for each in rows):
        raise ValueError(f"match and out must be ({C}, {L}), their rows contiguous")
    assert _function is not None
    bonus, step = (None, 0) if match is None else (match.data_ptr(), match.stride(0))
    _function(hidden.data_ptr(), second.data_ptr(), bias, bonus, step, out.data_ptr(), out.stride(0), h, C, L)

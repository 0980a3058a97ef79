"""The attention on a GPU: one kernel a pass, which never writes a (C, h, L) tensor.

Torch writes the hidden layer of a pass to memory, reads it for the sigmoid, and again for layer 2: 32 bytes a candidate
and behaviour, each time, in float32. The kernel (`gpu_attention`) reads keys and matches and writes readouts.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

TILE = 64
"""Behaviours at a time."""

CANDIDATES = 16
"""Candidates at a time: the smallest side of a product on tensor cores. With more, registers spill."""

PRODUCTS = {torch.float32: ("float32", "tf32x3"), torch.bfloat16: ("bfloat16", "tf32")}
"""Types of keys → Triton's type of what is multiplied, and how; "tf32x3": nearly as exactly as in float32."""

CAPABILITY = (8, 0)
"""The oldest GPUs that can do so: Ampere."""


@cache
def available() -> bool:
    """Return whether Triton, which is optional, is installed."""
    return find_spec("triton") is not None


def usable(keys: Tensor) -> bool:
    """Return whether this kernel can take such keys now; it computes no gradients."""
    ours = keys.device.type == "cuda" and keys.dtype in PRODUCTS and not torch.is_grad_enabled()
    return ours and available() and torch.cuda.get_device_capability(keys.device) >= CAPABILITY


class GpuBehaviours:
    """The behaviours of B users, ready for all passes; each user only as long as it is.

    Args:
        keys: (B, L, d) float32 or bfloat16, zero where padded.
        mask: (B, L) bool.
    """

    def __init__(self, keys: Tensor, mask: Tensor) -> None:
        self._keys = keys.contiguous()
        self._ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(dim=1).to(torch.int32)

    def readouts(self, first: Tensor, second: Tensor, bias: Tensor, match: Tensor | None) -> Tensor:
        """Return the (B, C, d) sums of behaviours by attention weight, in the type of the keys.

        Args:
            first: (B, h, C, d + 1) effective weights of layer 1, the bias last.
            second: (1, h) weights of layer 2.
            bias: (1,) of layer 2.
            match: (B, C, L) addition to the attention logits.
        """
        import triton.language as tl

        from model.kernels.gpu_attention import attend

        B, h, C, width = first.shape
        L, d = self._keys.shape[1], width - 1
        out = self._keys.new_empty(B, C, d)
        product, precision = PRODUCTS[self._keys.dtype]
        attend[(-(-C // CANDIDATES), B)](
            self._keys, first[..., :-1].contiguous(), first[..., -1].contiguous(), second.contiguous(), bias,
            self._keys if match is None else match.contiguous(), self._ends, out, C, L, d,
            HIDDEN=h, WIDTH=max(16, 1 << (d - 1).bit_length()), CANDIDATES=CANDIDATES, TILE=TILE,
            MATCHED=match is not None, PRODUCT=getattr(tl, product), PRECISION=precision,
        )  # fmt: skip
        return out

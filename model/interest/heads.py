"""What attentions of several heads share."""

import torch
from torch import Tensor


def head_width(d: int, heads: int) -> int:
    """Return the least width of a head so that all of them are no narrower than d."""
    return -(-d // heads)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B · heads, N, w) of (B, N, heads · w)."""
    B, N, width = x.shape
    return x.reshape(B, N, heads, width // heads).transpose(1, 2).flatten(0, 1)


def merge_heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, N, heads · w) of (B · heads, N, w)."""
    return by_head(x, heads).transpose(1, 2).flatten(2)


def by_head(x: Tensor, heads: int) -> Tensor:
    """Return (B, heads, N, w) of (B · heads, N, w)."""
    rows, N, width = x.shape
    return x.view(rows // heads, heads, N, width)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the last dimension; exact zeros where masked, also where all is.

    Args:
        logits: (…, N).
        mask: broadcasts to it; True where something is.
    """
    filled = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return torch.softmax(filled, dim=-1).masked_fill(~mask, 0.0)

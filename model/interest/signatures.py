"""Signatures of vectors: near ones agree in most bits."""

import torch
from torch import Tensor

from model.kernels import batch_invariant


def draw_planes(d: int, count: int) -> Tensor:
    """Return (d, count) normals of planes through the origin, in random directions."""
    return torch.randn(d, count)


def sides(x: Tensor, planes: Tensor) -> Tensor:
    """Return (…, count) bool: on which side of each plane x (…, d) lies (SimHash: Charikar, STOC 2002).

    Two vectors at an angle θ lie on the same side of a random plane with probability 1 − θ/π.
    """
    return batch_invariant.matmul(x.detach(), planes) > 0


def agreement(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return (B, C, L): in how many bits (B, C, n) sides and (B, L, n) sides agree, less those where they do not.

    Sums of 1 and -1 are exact in any order.
    """
    signed, others = (each.float() * 2 - 1 for each in (ours, theirs))
    return torch.bmm(signed, others.mT)

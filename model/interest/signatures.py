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

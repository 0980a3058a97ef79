"""Random inputs and parameters for tests that compare a model with a literal form of its equations."""

import math

import torch
from torch import Tensor, nn

from model.interest.base import Known

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Known]
LENGTHS = (9, 0, 1, 4, 7)
"""One user is longer than most windows, one has nothing."""


def drawn(d: int = 6, *, candidates: int = 3, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Inputs:
    """Draw what `forward` takes, in double precision; NaN among the keys where padded."""
    generator = torch.Generator().manual_seed(seed)
    B, L, C = len(lengths), max(lengths), candidates
    mask = torch.arange(L) < torch.tensor(lengths).unsqueeze(1)
    keys = torch.randn(B, L, d, generator=generator, dtype=torch.float64).masked_fill(~mask.unsqueeze(-1), math.nan)
    targets = torch.randn(B, C, d, generator=generator, dtype=torch.float64)
    match = torch.randn(B, C, L, generator=generator, dtype=torch.float64)
    items = torch.randint(1, 9, (B, L), generator=generator) * mask
    ages = torch.randint(0, 64, (B, L), generator=generator).sort(dim=1, descending=True).values * mask
    of_targets = torch.zeros(B, C, dtype=torch.int64)
    known = Known(items, items, items, ages, of_targets, of_targets, torch.ones(B, C, dtype=torch.bool))
    return keys, mask, targets, match, known


def randomised(model: nn.Module, seed: int = 1) -> None:
    """Put the model into double precision, with no parameter at its tidy start."""
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Return the LayerNorm of a vector, from its definition."""
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias

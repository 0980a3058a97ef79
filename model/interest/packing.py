"""Users of equal candidate counts side by side: on a CPU, work on padding costs as much as work on candidates."""

import torch
from torch import Tensor
from torch.nn import functional

from model.interest.base import InterestModel


def packed(
    model: InterestModel,
    keys: Tensor,
    mask: Tensor,
    targets: Tensor,
    target_mask: Tensor,
    match: Tensor | None,
) -> Tensor:
    """Return the (B, C, k) of `model`, computed in runs of users that follow one another with as many candidates.

    Padded behaviours cost nothing on a CPU: there, every user is attended to by itself, at its own length.

    Shapes as in `InterestModel.forward`, all left-aligned; `target_mask` (B, C) tells candidates from padding,
    where the result is zero.
    """
    C = targets.shape[1]
    counts = target_mask.sum(dim=1).clamp_min(1)
    distinct, sizes = (found.tolist() for found in torch.unique_consecutive(counts, return_counts=True))
    if distinct == [C]:
        whole: Tensor = model(keys, mask, targets, match)
        return whole
    runs = [torch.split(tensor, sizes) for tensor in (keys, mask, targets)]
    matches = [None] * len(sizes) if match is None else torch.split(match, sizes)
    outputs = [
        functional.pad(model(k, m, q[:, :c], None if bonus is None else bonus[:, :c]), (0, 0, 0, C - c))
        for c, k, m, q, bonus in zip(distinct, *runs, matches, strict=True)
    ]
    return torch.cat(outputs)

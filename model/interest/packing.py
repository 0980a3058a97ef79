"""Users of like size side by side: on a CPU, work on padding costs as much as work on behaviours."""

import torch
from torch import Tensor
from torch.nn import functional

from model.interest.base import InterestModel

GROUP = 2
"""Users computed together. More share the overhead of a call; fewer share padding, and fit the cache."""


def packed(
    model: InterestModel,
    keys: Tensor,
    mask: Tensor,
    targets: Tensor,
    target_mask: Tensor,
    match: Tensor | None,
) -> Tensor:
    """Return the (B, C, k) of `model`, computed in groups of users with about as many candidates and behaviours.

    Shapes as in `InterestModel.forward`, all left-aligned; `target_mask` (B, C) tells candidates from padding,
    where the result is zero.
    """
    C = targets.shape[1]
    lengths = mask.sum(dim=1).clamp_min(1)
    counts = target_mask.sum(dim=1).clamp_min(1)
    order = torch.argsort(counts * (mask.shape[1] + 1) + lengths)
    # Whoever learns attends user by user, each at its own length: only candidates would be padded.
    sizes = torch.unique(counts, return_counts=True)[1].tolist() if torch.is_grad_enabled() else GROUP
    # Sorted once and then split into views: indexing each group by itself would cost a full gradient a group.
    groups = [torch.split(tensor[order], sizes) for tensor in (lengths, counts, keys, mask, targets)]
    matches = [None] * len(groups[0]) if match is None else torch.split(match[order], sizes)
    outputs = []
    for group_lengths, group_counts, k, m, q, bonus in zip(*groups, matches, strict=True):
        L, c = int(group_lengths.max()), int(group_counts.max())
        output = model(k[:, :L], m[:, :L], q[:, :c], None if bonus is None else bonus[:, :c, :L])
        outputs.append(functional.pad(output, (0, 0, 0, C - c)))
    return torch.cat(outputs)[torch.argsort(order)]

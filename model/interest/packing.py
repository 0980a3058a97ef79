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

    Whoever learns attends user by user anyway, each at its own length: there, users that follow one another with as
    many candidates are a group, and nothing is moved.

    Shapes as in `InterestModel.forward`, all left-aligned; `target_mask` (B, C) tells candidates from padding,
    where the result is zero.
    """
    C = targets.shape[1]
    counts = target_mask.sum(dim=1).clamp_min(1)
    if torch.is_grad_enabled():
        return _in_runs(model, keys, mask, targets, counts, match)
    lengths = mask.sum(dim=1).clamp_min(1)
    order = torch.argsort(counts * (mask.shape[1] + 1) + lengths)
    # Sorted once and then split into views: indexing each group by itself would cost a full gradient a group.
    groups = [torch.split(tensor[order], GROUP) for tensor in (lengths, counts, keys, mask, targets)]
    matches = [None] * len(groups[0]) if match is None else torch.split(match[order], GROUP)
    outputs = []
    for group_lengths, group_counts, k, m, q, bonus in zip(*groups, matches, strict=True):
        L, c = int(group_lengths.max()), int(group_counts.max())
        output = model(k[:, :L], m[:, :L], q[:, :c], None if bonus is None else bonus[:, :c, :L])
        outputs.append(functional.pad(output, (0, 0, 0, C - c)))
    return torch.cat(outputs)[torch.argsort(order)]


def _in_runs(
    model: InterestModel, keys: Tensor, mask: Tensor, targets: Tensor, counts: Tensor, match: Tensor | None
) -> Tensor:
    C = targets.shape[1]
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

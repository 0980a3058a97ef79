"""How a model reads a batch: on a CPU, work on padding costs as much as work on candidates."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.interest.base import InterestModel, Known
from model.kernels import batch_invariant, learning


def packed(
    model: InterestModel, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
) -> Tensor:
    """Return the (B, C, k) of `model`; zero at padded candidates.

    On a GPU, all users at once; so do, while the compiled kernel learns, models that skip padding. Others on a
    CPU with gradients, in runs of users that follow one another with as many candidates. On a CPU without, user by user
    at its own length, since what stands beside a user must not change its bits; models that see to that themselves get
    runs, too.

    Shapes as in `InterestModel.forward`, all left-aligned.
    """
    C = targets.shape[1]
    if torch.compiler.is_compiling():  # one user, exported
        exported: Tensor = model(keys, mask, targets, match, known)
        return exported
    counts = known.counts.clamp_min(1)
    if model.skips_padding and learning.usable(keys):
        learned: Tensor = model(keys, mask, targets, match, known)
        return learned.masked_fill(~known.target_mask.unsqueeze(-1), 0.0)
    alone = batch_invariant.usable(keys) and not model.batch_invariant
    if keys.device.type != "cpu" or (not alone and bool((counts == C).all())):
        whole: Tensor = model(keys, mask, targets, match, known)
        return whole
    if alone:
        distinct, sizes = counts.tolist(), [1] * len(counts)
    else:
        distinct, sizes = (found.tolist() for found in torch.unique_consecutive(counts, return_counts=True))
    lengths = mask.sum(dim=1).clamp_min(1).tolist() if alone else [keys.shape[1]] * len(sizes)
    outputs, start = [], 0
    for c, size, length in zip(distinct, sizes, lengths, strict=True):
        users = slice(start, start + size)
        start += size
        outputs.append(
            functional.pad(model(*_part(users, length, c, keys, mask, targets, match, known)), (0, 0, 0, C - c))
        )
    return torch.cat(outputs)


def by_candidates(readout: Callable[[slice, int], Tensor], target_mask: Tensor) -> Tensor:
    """Return the (B, C, k) of a readout; zero at padded candidates.

    For models that, while learning, read all users at once before they look at candidates. On a CPU, those follow in
    runs of users that have as many.

    Args:
        readout: gives the (users, candidates, k) of some users and of their first candidates.
        target_mask: (B, C) bool, left-aligned.
    """
    B, C = target_mask.shape
    if target_mask.device.type != "cpu":
        return readout(slice(0, B), C)
    counts, sizes = torch.unique_consecutive(target_mask.sum(dim=1).clamp_min(1), return_counts=True)
    outputs, start = [], 0
    for c, size in zip(counts.tolist(), sizes.tolist(), strict=True):
        outputs.append(functional.pad(readout(slice(start, start + size), c), (0, 0, 0, C - c)))
        start += size
    return torch.cat(outputs)


def _part(
    users: slice, length: int, c: int, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
) -> tuple[Any, ...]:
    """Return what `forward` takes for some users, of the first behaviours and candidates."""
    return (
        keys[users, :length],
        mask[users, :length],
        targets[users, :c],
        None if match is None else match[users, :c, :length],
        known.part(users, length, c),
    )

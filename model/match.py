"""Exact matches between candidates and behaviours.

How often and how recently the same item or category occurs in the history is the strongest signal of repeated
interest; attention over learned embeddings finds it only approximately. So the same matches serve twice: as
learned additions to the attention logits, and as counts and recencies for the head.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from model.batch import Batch
from model.kernels import native

WINDOWS = (50, 200)
"""Matches are counted among so many newest behaviours, and among all."""

NEVER = 8.0
"""Recency of a match that does not exist: beyond every log distance and every scaled gap bucket."""

MATCH_FEATURES = 2 * (len(WINDOWS) + 1 + 2) + 1
"""Features of one candidate: of item and category 3 counts and 2 recencies each; the history's length."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Which behaviours match which candidates, as 0 and 1 in float.

    Attributes:
        item: (B, C, L), the same item.
        category: (B, C, L), the same category; never where there is none.
    """

    item: Tensor
    category: Tensor


@dataclass(frozen=True, slots=True)
class MatchCounts:
    """What the head learns of a candidate's matches of item and of category, in float.

    Attributes:
        within: (B, C, 2, 3) matches among the newest 50, the newest 200, and all behaviours.
        newest: (B, C, 2) one more than the place of the newest match, 0 when there is none.
    """

    within: Tensor
    newest: Tensor


def find_matches(batch: Batch, dtype: torch.dtype = torch.float32) -> Matches:
    """Compare every candidate with every behaviour; a padded position matches nothing."""
    history_mask = batch.mask.unsqueeze(1)
    known = batch.target_categories.masked_fill(batch.target_categories == 0, -1)
    item = (batch.target_items.unsqueeze(2) == batch.history_items.unsqueeze(1)) & history_mask
    category = (known.unsqueeze(2) == batch.history_categories.unsqueeze(1)) & history_mask
    return Matches(item.to(dtype), category.to(dtype))


def count_matches(matches: Matches, batch: Batch) -> MatchCounts:
    """Return how many behaviours match each candidate, and which does last."""
    dtype = matches.item.dtype
    places = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    ages = batch.mask.sum(dim=1, keepdim=True) - 1 - places
    windows = torch.stack([ages < window for window in WINDOWS] + [batch.mask], dim=-1).to(dtype)
    ordinals = (places + 1).to(dtype)
    both = (matches.item, matches.category)
    within = torch.stack([match @ windows for match in both], dim=2)
    return MatchCounts(within, torch.stack([(match * ordinals).amax(dim=2) for match in both], dim=2))


def compiled_matches(batch: Batch, logits: "MatchLogits | None") -> tuple[MatchCounts, Tensor | None]:
    """Return what `count_matches` says and what `logits` adds, by the compiled kernel; only where `native.usable`."""
    weights = None if logits is None else torch.stack([logits.item, logits.category])
    found = [
        native.matches(
            torch.stack([history_items, history_categories]), mask, torch.stack([items, categories]), WINDOWS, weights
        )
        for history_items, history_categories, mask, items, categories in zip(
            batch.history_items,
            batch.history_categories,
            batch.mask,
            batch.target_items,
            batch.target_categories,
            strict=True,
        )
    ]
    within, newest, bonuses = zip(*found, strict=True)
    return MatchCounts(torch.stack(within), torch.stack(newest)), None if logits is None else torch.stack(bonuses)


def match_features(counts: MatchCounts, batch: Batch) -> Tensor:
    """Return (B, C, `MATCH_FEATURES`) counts and recencies, each of the order of 1 to 8.

    For item, then category: log(1 + count) among the newest 50, 200 and all; log(1 + behaviours since the
    newest match); the newest match's time gap in buckets of four octaves. Without a match both recencies are
    `NEVER`. Last, log(1 + length), against which counts are to be judged.
    """
    newest = counts.newest
    lengths = batch.mask.sum(dim=1)[:, None, None].to(newest.dtype)
    since = _log1p((lengths - newest).clamp_min(0.0), batch)
    places = (newest.long() - 1).clamp_min(0)
    buckets = batch.gap_buckets.gather(1, places.flatten(1)).view_as(places).to(newest.dtype)
    recencies = torch.stack([since, buckets / 8.0], dim=-1).where(newest.unsqueeze(-1) > 0, NEVER)
    features = torch.cat([_log1p(counts.within, batch), recencies], dim=-1).flatten(2)
    return torch.cat([features, _log1p(lengths, batch).expand(-1, features.shape[1], -1)], dim=-1)


def _log1p(whole: Tensor, batch: Batch) -> Tensor:
    """Return log(1 + n) of numbers n from 0 to L, from a table, which does not depend on where n stands."""
    size = 1 << batch.mask.shape[1].bit_length()
    return _logarithms(size, whole.dtype, whole.device)[whole.long()]


@cache
def _logarithms(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor([math.log1p(n) for n in range(size)], dtype=dtype, device=device)


class MatchLogits(nn.Module):
    """Two learned weights: what "same item" and "same category" add to an attention logit."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Parameter(torch.ones(()))
        self.category = nn.Parameter(torch.ones(()))

    def forward(self, matches: Matches) -> Tensor:
        """Return (B, C, L) additions to the logits of every attention pass."""
        return torch.addcmul(matches.item * self.item, matches.category, self.category)

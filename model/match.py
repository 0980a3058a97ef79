"""Exact matches between candidates and behaviours: what embeddings blur and counts know.

How often and how recently the same item or category occurs in the history is the strongest signal of repeated
interest; attention over learned embeddings finds it only approximately. So the same matches serve twice: as
learned additions to the attention logits, and as counts and recencies for the head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import Batch

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


def find_matches(batch: Batch, dtype: torch.dtype = torch.float32) -> Matches:
    """Compare every candidate with every behaviour; a padded position matches nothing."""
    history_mask = batch.mask.unsqueeze(1)
    known = batch.target_categories.masked_fill(batch.target_categories == 0, -1)
    item = (batch.target_items.unsqueeze(2) == batch.history_items.unsqueeze(1)) & history_mask
    category = (known.unsqueeze(2) == batch.history_categories.unsqueeze(1)) & history_mask
    return Matches(item.to(dtype), category.to(dtype))


def match_features(matches: Matches, batch: Batch) -> Tensor:
    """Return (B, C, `MATCH_FEATURES`) counts and recencies, each of the order of 1 to 8.

    For item, then category: log(1 + count) among the newest 50, 200 and all; log(1 + behaviours since the
    newest match); the newest match's time gap in buckets of four octaves. Without a match both recencies are
    `NEVER`. Last, log(1 + length), against which counts are to be judged.
    """
    dtype = matches.item.dtype
    lengths = batch.mask.sum(dim=1, keepdim=True)
    positions = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    ages = lengths - 1 - positions
    windows = torch.stack([ages < window for window in WINDOWS] + [batch.mask], dim=-1).to(dtype)
    ordinals = (positions + 1).to(dtype)
    features = []
    for match in (matches.item, matches.category):
        counts = match @ windows
        newest = (match * ordinals).amax(dim=2)
        found = newest > 0
        since = torch.log1p((lengths - newest).clamp_min(0.0))
        buckets = batch.gap_buckets.gather(1, (newest.long() - 1).clamp_min(0)).to(dtype)
        recencies = torch.stack([since, buckets / 8.0], dim=-1)
        features += [torch.log1p(counts), recencies.where(found.unsqueeze(-1), NEVER)]
    features.append(torch.log1p(lengths.to(dtype)).unsqueeze(-1).expand(-1, matches.item.shape[1], -1))
    return torch.cat(features, dim=-1)


class MatchLogits(nn.Module):
    """Two learned weights: what "same item" and "same category" add to an attention logit."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Parameter(torch.ones(()))
        self.category = nn.Parameter(torch.ones(()))

    def forward(self, matches: Matches) -> Tensor:
        """Return (B, C, L) additions to the logits of every attention pass."""
        return torch.addcmul(matches.item * self.item, matches.category, self.category)

"""Exact matches between candidates and behaviours.

How often and how recently the same item or category occurs in the history is the strongest signal of repeated
interest; attention over learned embeddings finds it only approximately. So the same matches serve twice: as
learned additions to the attention logits, and as counts and recencies for the head.
"""

import math
from collections.abc import Sequence
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

PER_KIND = len(WINDOWS) + 1 + 2
"""Features of one candidate for each kind of match: 3 counts and 2 recencies."""
MATCH_FEATURES = 2 * PER_KIND + 1
"""Features of one candidate without features of callers: of item and category, and the history's length."""

Columns = Sequence[tuple[int, int]]
"""Of each feature that is matched too: its column among the batch's `shown_keys`, and among its `past_keys`."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Which behaviours match which candidates, as 0 and 1 in float.

    Attributes:
        item: (B, C, L), the same item.
        category: (B, C, L), the same category; never where there is none.
        features: (B, C, L) each, the same value of a feature; never where it is missing.
    """

    item: Tensor
    category: Tensor
    features: tuple[Tensor, ...] = ()

    @property
    def all(self) -> tuple[Tensor, ...]:
        """All K kinds."""
        return self.item, self.category, *self.features


@dataclass(frozen=True, slots=True)
class ListedMatches:
    """The same as a list, with what is counted of them: few of all pairs match.

    Attributes:
        places: (M,) int64, of one of (B, C, L).
        kinds: (M,) int64 in [0, K).
        shape: (B, C, L).
        counts: of them.
    """

    places: Tensor
    kinds: Tensor
    shape: tuple[int, int, int]
    counts: "MatchCounts"


@dataclass(frozen=True, slots=True)
class MatchCounts:
    """What the head learns of a candidate's matches of item, of category, and of K − 2 features, in float.

    Attributes:
        within: (B, C, K, 3) matches among the newest 50, the newest 200, and all behaviours.
        newest: (B, C, K) one more than the place of the newest match, 0 when there is none.
    """

    within: Tensor
    newest: Tensor


def find_matches(batch: Batch, dtype: torch.dtype = torch.float32, features: Columns = ()) -> Matches:
    """Compare every candidate with every behaviour; a padded position matches nothing."""
    history_mask = batch.mask.unsqueeze(1)
    known = batch.target_categories.masked_fill(batch.target_categories == 0, -1)
    item = (batch.target_items.unsqueeze(2) == batch.history_items.unsqueeze(1)) & history_mask
    category = (known.unsqueeze(2) == batch.history_categories.unsqueeze(1)) & history_mask
    others = []
    for shown, past in _feature_keys(batch, features):
        known = shown.masked_fill(shown == 0, -1)
        others.append(((known.unsqueeze(2) == past.unsqueeze(1)) & history_mask).to(dtype))
    return Matches(item.to(dtype), category.to(dtype), tuple(others))


def list_matches(batch: Batch, features: Columns = ()) -> ListedMatches:
    """Find the same by the compiled kernel; only where there is a `native.library`, on a CPU."""
    shown, past = (torch.stack(keys, dim=1) for keys in zip(*_pairs(batch, features), strict=True))
    within, newest, places, kinds = native.list_matches(past, batch.mask, shown, WINDOWS)
    shape = len(batch.mask), batch.target_mask.shape[1], batch.mask.shape[1]
    return ListedMatches(places, kinds, shape, MatchCounts(within, newest))


def count_matches(matches: Matches | ListedMatches, batch: Batch) -> MatchCounts:
    """Return how many behaviours match each candidate, and which does last."""
    if isinstance(matches, ListedMatches):
        return matches.counts
    dtype = matches.item.dtype
    places = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    ages = batch.mask.sum(dim=1, keepdim=True) - 1 - places
    windows = torch.stack([ages < window for window in WINDOWS] + [batch.mask], dim=-1).to(dtype)
    ordinals = (places + 1).to(dtype)
    within = torch.stack([match @ windows for match in matches.all], dim=2)
    return MatchCounts(within, torch.stack([(match * ordinals).amax(dim=2) for match in matches.all], dim=2))


def compiled_matches(
    batch: Batch, logits: "MatchLogits | None", features: Columns = ()
) -> tuple[MatchCounts, Tensor | None]:
    """Return what `count_matches` says and what `logits` adds, by the compiled kernel; only where `native.usable`."""
    within, newest, bonus = native.matches(
        _pairs(batch, features), batch.lengths, WINDOWS, None if logits is None else logits.weights
    )
    return MatchCounts(within, newest), bonus


def match_features(counts: MatchCounts, batch: Batch) -> Tensor:
    """Return (B, C, K * `PER_KIND` + 1) counts and recencies, each of the order of 1 to 8.

    For item, category, then each feature: log(1 + count) among the newest 50, 200 and all; log(1 + behaviours since the
    newest match); the newest match's time gap in buckets of four octaves. Without a match both recencies are
    `NEVER`. Last, log(1 + length), against which counts are to be judged.
    """
    newest = counts.newest
    if native.usable(newest):
        logs = _logarithms(1 << batch.mask.shape[1].bit_length(), newest.dtype, newest.device)
        return native.match_features(counts.within, newest, batch.gap_buckets, batch.lengths, logs, NEVER)
    lengths = batch.mask.sum(dim=1)[:, None, None].to(newest.dtype)
    since = _log1p((lengths - newest).clamp_min(0.0), batch)
    places = (newest.long() - 1).clamp_min(0)
    buckets = batch.gap_buckets.gather(1, places.flatten(1)).view_as(places).to(newest.dtype)
    recencies = torch.stack([since, buckets / 8.0], dim=-1).where(newest.unsqueeze(-1) > 0, NEVER)
    features = torch.cat([_log1p(counts.within, batch), recencies], dim=-1).flatten(2)
    return torch.cat([features, _log1p(lengths, batch).expand(-1, features.shape[1], -1)], dim=-1)


def _log1p(whole: Tensor, batch: Batch) -> Tensor:
    """Return log(1 + n) of numbers n from 0 to L, from a table, which does not depend on where n stands."""
    if torch.compiler.is_compiling():
        return torch.log1p(whole)
    size = 1 << batch.mask.shape[1].bit_length()
    return _logarithms(size, whole.dtype, whole.device)[whole.long()]


@cache
def _logarithms(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor([math.log1p(n) for n in range(size)], dtype=dtype, device=device)


def _pairs(batch: Batch, features: Columns) -> list[tuple[Tensor, Tensor]]:
    """Return the (B, C) keys of candidates and the (B, L) keys of behaviours of each kind that is matched."""
    own = [(batch.target_items, batch.history_items), (batch.target_categories, batch.history_categories)]
    return own + _feature_keys(batch, features)


def _feature_keys(batch: Batch, features: Columns) -> list[tuple[Tensor, Tensor]]:
    """Return the (B, C) and (B, L) keys of each feature that is matched."""
    read = batch.features
    if read is None:
        return []
    return [(read.shown_keys[..., shown], read.past_keys[..., past]) for shown, past in features]


class MatchLogits(nn.Module):
    """Learned weights: what "same item", "same category" and "same value of a feature" add to an attention logit.

    Args:
        features: how many features are matched; their weights start at zero.
    """

    def __init__(self, features: int = 0) -> None:
        super().__init__()
        self.item = nn.Parameter(torch.ones(()))
        self.category = nn.Parameter(torch.ones(()))
        self.features = nn.Parameter(torch.zeros(features)) if features else None

    @property
    def weights(self) -> Tensor:
        """The (K,) weights."""
        own = torch.stack([self.item, self.category])
        return own if self.features is None else torch.cat([own, self.features])

    def forward(self, matches: Matches | ListedMatches) -> Tensor:
        """Return (B, C, L) additions to the logits of every attention pass."""
        if isinstance(matches, ListedMatches):
            weights = self.weights
            none = weights.new_zeros(math.prod(matches.shape))
            return none.index_add(0, matches.places, weights.index_select(0, matches.kinds)).view(matches.shape)
        total = torch.addcmul(matches.item * self.item, matches.category, self.category)
        if self.features is not None:
            for match, weight in zip(matches.features, self.features, strict=True):
                total = torch.addcmul(total, match, weight)
        return total

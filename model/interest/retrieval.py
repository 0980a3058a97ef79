"""Search for the behaviours that concern a candidate, and attention over those that were found."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.interest.base import masked_keys
from model.interest.heads import head_width, masked_softmax
from model.kernels import batch_invariant


@dataclass(frozen=True, slots=True)
class Found:
    """K behaviours of every candidate, best first.

    Attributes:
        places: (B, C, K) int64 places in the sequence; any where there are fewer.
        there: (B, C, K) bool, True where one was found.
    """

    places: Tensor
    there: Tensor

    @classmethod
    def highest(cls, scores: Tensor, mask: Tensor, count: int) -> "Found":
        """Return so many behaviours of the highest scores, or all; of equal ones the newest.

        Args:
            scores: (B, C, L), compared in single precision.
            mask: bool, broadcasts to it; True where a behaviour may be found.
            count: at least 1.
        """
        L = scores.shape[-1]
        # Bits of floats, as integers, are ordered as floats are, negative ones the other way round. With the place
        # behind them no two are equal. Adding 0 makes -0 the same as 0.
        bits = (scores.detach().float() + 0.0).view(torch.int32)
        ordered = (bits ^ ((bits >> 31) & 0x7FFF_FFFF)).long() * L + torch.arange(L, device=scores.device)
        ordered = ordered.masked_fill(~mask, torch.iinfo(torch.int64).min)
        places = ordered.topk(min(count, L), dim=-1).indices
        return cls(places, mask.expand_as(scores).gather(-1, places))

    def among(self, length: int) -> Tensor:
        """Return (B, C, length) bool: which behaviours of the sequence were found."""
        nowhere = self.there.new_zeros(*self.there.shape[:-1], length)
        return nowhere.scatter(-1, self.places, self.there)

    def rows(self, keys: Tensor) -> Tensor:
        """Return their (B, C, K, d) rows of (B, L, d)."""
        B, L, _ = keys.shape
        first = torch.arange(B, device=keys.device).view(B, 1, 1) * L
        return keys.flatten(0, 1)[self.places + first]

    def match(self, match: Tensor | None) -> Tensor | None:
        """Return their (B, C, K) logits of (B, C, L), if there are any."""
        return None if match is None else match.gather(2, self.places)


class RetrievedAttention(nn.Module):
    """r = LayerNorm(W_o [Σ_l a_l n(k_l) of every head]); a = softmax_l((W_q n(q)) · (W_k n(k_l)) / √w + match_l).

    n is a LayerNorm without parameters. W_q and W_k start as one orthogonal matrix: whatever the scale of embeddings,
    equal things attract each other from the start. W_o, which holds the projection of values too, starts as the mean of
    the heads: the readout lies where keys lie. Without any behaviour it is that of zeros.

    Args:
        d: width of queries and keys.
        heads: how many; each is w = ⌈d / heads⌉ wide.
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        width = head_width(d, heads)
        self.scale = 1 / math.sqrt(width)
        self.query, self.key = (nn.Linear(d, heads * width, bias=False) for _ in range(2))
        nn.init.orthogonal_(self.query.weight)
        self.out = nn.Linear(heads * d, d, bias=False)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)
            self.out.weight.copy_(torch.eye(d).repeat(1, heads) / heads)
        self.norm = nn.LayerNorm(d)

    def forward(self, targets: Tensor, rows: Tensor, found: Found, match: Tensor | None) -> Tensor:
        """Return (B, C, d).

        Args:
            targets: (B, C, d).
            rows: (B, L, d), normalised.
            found: of each candidate, what it attends to.
            match: (B, C, L) addition to the logits.
        """
        picked = found.rows(rows).flatten(0, 1)
        queries = self.queries(targets)
        logits = batch_invariant.bmm(queries.flatten(0, 1), picked.mT).view(*queries.shape[:3], -1)
        bonus = found.match(match)
        return self.read(logits if bonus is None else logits + bonus.unsqueeze(2), picked, found)

    def queries(self, targets: Tensor) -> Tensor:
        """Return (B, C, heads, d): what every head compares with normalised keys as they are, W_kᵀ W_q n(q) / √w."""
        query, key = (layer.weight.view(self.heads, -1, targets.shape[-1]) for layer in (self.query, self.key))
        both = (query.mT @ key) * self.scale
        products = batch_invariant.matmul(normed(targets), both.transpose(0, 1).flatten(1))
        return products.view(*targets.shape[:2], self.heads, -1)

    def read(self, logits: Tensor, picked: Tensor, found: Found) -> Tensor:
        """Return the (B, C, d) readouts, given the (B, C, heads, K) logits of (B · C, K, d) rows that were picked."""
        weights = masked_softmax(logits, found.there.unsqueeze(2))
        read = batch_invariant.bmm(weights.flatten(0, 1), picked).view(*logits.shape[:2], -1)
        out: Tensor = self.norm(batch_invariant.matmul(read, self.out.weight.T))
        return out


def normed(x: Tensor) -> Tensor:
    """Return the LayerNorm of (…, d), without parameters."""
    return nn.functional.layer_norm(x, x.shape[-1:])


def normed_rows(keys: Tensor, mask: Tensor) -> Tensor:
    """Return the same of (B, L, d) keys, exact zeros where the (B, L) mask has no behaviour."""
    return normed(masked_keys(keys, mask))

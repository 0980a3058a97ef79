"""Hierarchical Sequential Transduction Unit: attention without softmax, by content, distance and time."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import GAP_BUCKETS
from model.interest.base import InterestModel, Known
from model.interest.heads import by_head, head_width, merge_heads, split_heads
from model.interest.newest import Newest
from model.interest.options import Hstu
from model.kernels import batch_invariant


class Layer(nn.Module):
    """[u, v, q, k] = SiLU(W x̂ + b), x̂ = LN(x); y = x + W_o (u ⊙ LN(Σ_j a_j v_j)); a = SiLU(q · k_j / √w + bias_j) / n.

    The bias is a learned number for the distance in places, and one for that in time; n is how many are attended to.
    W_q and W_k start as one orthogonal matrix, so that equal things attract each other from the start. So do W_u and
    W_v, so that what is read passes the gate of its like.

    Args:
        d: width of positions.
        heads: of the attention.
        recent: largest distance in places.
    """

    def __init__(self, d: int, heads: int, recent: int) -> None:
        super().__init__()
        self.heads = heads
        self.inner = heads * head_width(d, heads)
        self.norm = nn.LayerNorm(d)
        self.project = nn.Linear(d, 4 * self.inner)
        self.distances = nn.Parameter(0.02 * torch.randn(recent + 1))
        self.times = nn.Parameter(0.02 * torch.randn(GAP_BUCKETS))
        self.read_norm = nn.LayerNorm(self.inner)
        self.out = nn.Linear(self.inner, d)
        gate, value, query, key = self.project.weight.data.chunk(4)
        for one, other in ((gate, value), (query, key)):
            other.copy_(nn.init.orthogonal_(one))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (B, N, inner) gates u of (B, N, d), and (B · heads, N, w) values, queries and keys."""
        gate, *parts = silu(batch_invariant.linear(self.project, self.norm(x))).chunk(4, dim=-1)
        value, query, key = (split_heads(part, self.heads) for part in parts)
        return gate, value, query / math.sqrt(self.inner // self.heads), key

    def finished(self, x: Tensor, gate: Tensor, read: Tensor) -> Tensor:
        """Return the (B, N, d) y, given (B · heads, N, w) attention readouts."""
        return x + batch_invariant.linear(self.out, gate * self.read_norm(merge_heads(read, self.heads)))

    def among_behaviours(self, query: Tensor, key: Tensor, value: Tensor, ages: Tensor, between: Tensor) -> Tensor:
        """Return (B · heads, R, w): behaviours attend to themselves and those before.

        Args:
            query: (B · heads, R, w).
            key: of the same shape.
            value: of the same shape.
            ages: (B, R, GAP_BUCKETS), 1 at the bucket of each age.
            between: (GAP_BUCKETS, GAP_BUCKETS) bucket of the time between two ages.
        """
        R = query.shape[1]
        places = torch.arange(R, device=query.device)
        apart = (places.unsqueeze(1) - places).clamp_min(0)
        # As products with ones and zeros: the backward of so large a look-up would take longer than all the rest.
        of_times = ages @ self.times[between] @ ages.mT
        bias = self.distances[apart] + of_times
        logits = by_head(torch.bmm(query, key.mT), self.heads) + bias.unsqueeze(1)
        weights = (functional.silu(logits) / (places + 1).unsqueeze(1)).tril()
        return torch.bmm(weights.flatten(0, 1), value)

    def by_candidates(
        self,
        of_candidates: tuple[Tensor, Tensor, Tensor],
        of_behaviours: tuple[Tensor, Tensor],
        mask: Tensor,
        bias: Tensor,
    ) -> Tensor:
        """Return (B · heads, C, w): candidates attend to behaviours, and each to itself.

        Args:
            of_candidates: (B · heads, C, w) values, queries and keys.
            of_behaviours: (B · heads, R, w) values and keys.
            mask: (B, R) bool.
            bias: (B, 1, R) or (B, C, R) addition to the logits, besides what distance and time add.
        """
        own_value, query, own_key = of_candidates
        value, key = of_behaviours
        count = mask.sum(dim=1).repeat_interleave(self.heads)[:, None, None] + 1
        logits = by_head(batch_invariant.bmm(query, key.mT), self.heads) + bias.unsqueeze(1)
        weights = silu(logits).masked_fill(~mask[:, None, None], 0.0).flatten(0, 1)
        own = silu((query * own_key).sum(dim=-1, keepdim=True) + (self.distances[0] + self.times[0]))
        return (batch_invariant.bmm(weights, value) + own * own_value) / count


class SequentialTransduction(InterestModel):
    """HSTU layers over the behaviours, and over candidates of which each attends to the behaviours and itself.

    After HSTU (Zhai et al., ICML 2024, sec. 3.2): one projection, attention by SiLU in place of softmax, its readout
    normalised and gated; no feed-forward layer. As in the released research code, the bias is of places and of times in
    logarithmic buckets, shared by the heads; as in its ranking code, logits are divided by √w, and candidates stand
    behind the history, each blind to the others.

    Adapted here: match is added to the logits of candidates; the sum is divided by how many are attended to and not by
    a constant; a behaviour's action is a part of its key and not a position of its own. Of a behaviour only the bucket
    of its age is known, so the time between two is the bucket of the difference of their least ages, and what predicts
    at a behaviour's place is its own time, not that of the next. No dropout. Returns [q, LN(y − q)] of the last layer's
    y: what the layers added, since q itself would outweigh it.

    Args:
        d: width of keys and targets.
        options: how many behaviours, layers and heads.
    """

    between: Tensor

    def __init__(self, d: int, options: Hstu) -> None:
        super().__init__()
        self.d = d
        self.recent = options.recent
        self.layers = nn.ModuleList(Layer(d, options.heads, options.recent) for _ in range(options.layers))
        self.norm = nn.LayerNorm(d)
        self.register_buffer("between", buckets_between(), persistent=False)

    @property
    def width(self) -> int:
        """2d."""
        return 2 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,
    ) -> Tensor:
        """Return (B, C, 2d); see `InterestModel.forward`."""
        assert known is not None
        newest = Newest.of(mask, self.recent)
        match, ages = newest.match(match), newest.known(known.ages)
        ages_hot = functional.one_hot(ages, GAP_BUCKETS).to(keys.dtype)
        history, candidates = newest.keys(keys), targets
        for place, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            gate, value, query, key = layer.parts(history)
            own_gate, *own = layer.parts(candidates)
            bias = (layer.distances[newest.ranks + 1] + layer.times[ages]).unsqueeze(1)
            read = layer.by_candidates(
                (own[0], own[1], own[2]), (value, key), newest.mask, bias if match is None else bias + match
            )
            candidates = layer.finished(candidates, own_gate, read)
            if place + 1 < len(self.layers):
                read = layer.among_behaviours(query, key, value, ages_hot, self.between)
                history = layer.finished(history, gate, read)
        return torch.cat([targets, self.norm(candidates - targets)], dim=-1)


def silu(x: Tensor) -> Tensor:
    """Return x σ(x)."""
    return x * batch_invariant.sigmoid(x) if batch_invariant.usable(x) else functional.silu(x)


def buckets_between() -> Tensor:
    """Return (GAP_BUCKETS, GAP_BUCKETS): [i, j] is the bucket of the time from age j to the smaller age i."""
    ages = 2.0 ** (torch.arange(GAP_BUCKETS, dtype=torch.float64) / 2) - 1.0
    apart = (ages - ages.unsqueeze(1)).clamp_min(0.0)
    # An age of the table falls in its own bucket, whatever the logarithm's last bit.
    return (2.0 * torch.log2(1.0 + apart) + 1e-9).floor().long()

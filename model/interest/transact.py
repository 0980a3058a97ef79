"""TransAct: a transformer over the newest behaviours, each side by side with the candidate."""

import math

import torch
from torch import Tensor, nn

from model.interest.base import InterestModel, Known
from model.interest.heads import by_head, head_width, masked_softmax, merge_heads, split_heads
from model.interest.newest import Newest
from model.interest.options import Transact
from model.kernels import batch_invariant


class EncoderLayer(nn.Module):
    """x ← LN(x + Attention(x)), then x ← LN(x + W2 ReLU(W1 x)).

    Args:
        d: width of positions.
        heads: of the attention.
        hidden: width between W1 and W2.
    """

    def __init__(self, d: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.inner = heads * head_width(d, heads)
        self.attention_in = nn.Linear(d, 3 * self.inner)
        self.attention_out = nn.Linear(self.inner, d)
        self.attention_norm = nn.LayerNorm(d)
        self.forward_in = nn.Linear(d, hidden)
        self.forward_out = nn.Linear(hidden, d)
        self.forward_norm = nn.LayerNorm(d)

    def forward(self, x: Tensor, projected: Tensor, mask: Tensor, match: Tensor | None) -> Tensor:
        """Return (N, R, d).

        Args:
            x: (N, R, d).
            projected: (N, R, 3 · inner), what `attention_in` makes of it.
            mask: (N, R) bool.
            match: (N, R) addition to the logits of whatever attends to these positions.
        """
        query, key, value = (split_heads(part, self.heads) for part in projected.chunk(3, dim=-1))
        query = query / math.sqrt(self.inner // self.heads)
        logits = by_head(batch_invariant.bmm(query, key.mT), self.heads)
        if match is not None:
            logits = logits + match[:, None, None]
        weights = masked_softmax(logits, mask[:, None, None]).flatten(0, 1)
        read = merge_heads(batch_invariant.bmm(weights, value), self.heads)
        x = self.attention_norm(x + batch_invariant.linear(self.attention_out, read))
        inner = batch_invariant.linear(self.forward_in, x).relu()
        out: Tensor = self.forward_norm(x + batch_invariant.linear(self.forward_out, inner))
        return out


_ATTRACTION = 2.0
"""Scale of that matrix: embeddings are smaller than what an attention without LayerNorm before it could tell apart."""


class RealtimeActions(InterestModel):
    """x_l = [k_l, q]; a transformer over all l; returns [q, W max_l y_l + b, y of the newest positions].

    After TransAct (Xia et al., KDD 2023), in the form of its released code: the candidate early-fused with each
    behaviour, an encoder without positions whose LayerNorm comes behind each layer, and two outputs, the projected
    maximum and the newest columns. Sizes are those of FuxiCTR's port where they differ from the paper: one layer, one
    column; an encoder as large as the paper's for each candidate is for GPUs.

    Adapted here: the embedding of a behaviour's action is added into its key, not side by side with it; match is added
    to the logits of all that attend to a behaviour. In the first layer, what queries take of the candidate and keys of
    a behaviour starts as one orthogonal matrix, so that equal things attract each other. The mask of a random newest
    span while learning is left out: what a step computes depends on the batch alone. So is dropout.

    Args:
        d: width of keys and targets.
        options: how many behaviours, and the sizes of the encoder.
    """

    def __init__(self, d: int, options: Transact) -> None:
        super().__init__()
        self.d = d
        self.recent = options.recent
        self.outputs = min(options.outputs, options.recent)
        self.layers = nn.ModuleList(EncoderLayer(2 * d, options.heads, options.hidden) for _ in range(options.layers))
        self.out = nn.Linear(2 * d, 2 * d)
        first = self.layers[0]
        assert isinstance(first, EncoderLayer)
        query, key, _ = first.attention_in.weight.data.chunk(3)
        key[:, :d] = query[:, d:] = nn.init.orthogonal_(torch.empty(first.inner, d), gain=_ATTRACTION)

    @property
    def width(self) -> int:
        """3d, and 2d for each of the newest positions."""
        return (3 + 2 * self.outputs) * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, width); see `InterestModel.forward`."""
        B, C, d = targets.shape
        newest = Newest.of(mask, self.recent)
        keys, match = newest.keys(keys), newest.match(match)
        R = keys.shape[1]
        behind = None if match is None else match.flatten(0, 1)
        there = newest.mask.unsqueeze(1).expand(B, C, R).flatten(0, 1)
        x = torch.cat([each.expand(B, C, R, d) for each in (keys.unsqueeze(1), targets.unsqueeze(2))], dim=-1)
        x, projected = x.flatten(0, 1), self._projected(keys, targets)
        for place, layer in enumerate(self.layers):
            assert isinstance(layer, EncoderLayer)
            if place:
                projected = batch_invariant.linear(layer.attention_in, x)
            x = layer(x, projected, there, behind)
        most = x.masked_fill(~there.unsqueeze(-1), -torch.inf).amax(dim=1)
        most = most.masked_fill(~there[:, :1], 0.0)
        columns = self._newest_columns(x.view(B, C, R, 2 * d), newest)
        return torch.cat([targets, batch_invariant.linear(self.out, most).view(B, C, 2 * d), columns], dim=-1)

    def _projected(self, keys: Tensor, targets: Tensor) -> Tensor:
        """Return (B · C, R, 3 · inner) of the first layer: behaviours and candidates are projected apart."""
        first = self.layers[0]
        assert isinstance(first, EncoderLayer)
        of_keys, of_targets = torch.split(first.attention_in.weight, self.d, dim=1)
        by_behaviour = keys @ of_keys.T + first.attention_in.bias
        by_candidate = batch_invariant.matmul(targets, of_targets.T)
        return (by_behaviour.unsqueeze(1) + by_candidate.unsqueeze(2)).flatten(0, 1)

    def _newest_columns(self, x: Tensor, newest: Newest) -> Tensor:
        """Return (B, C, outputs · 2d), the newest first; zeros where there are no more behaviours."""
        B, C, _, width = x.shape
        counts = newest.mask.sum(dim=1, keepdim=True)
        places = counts - 1 - torch.arange(self.outputs, device=x.device)
        found = x.gather(2, places.clamp_min(0)[:, None, :, None].expand(B, C, -1, width))
        return found.masked_fill((places < 0)[:, None, :, None], 0.0).flatten(2)

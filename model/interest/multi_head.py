"""Attention of several heads: of candidates to rows of a user, and of such rows to each other."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import masked_keys
from model.interest.heads import head_width, masked_softmax, merge_heads, split_heads
from model.kernels import batch_invariant


class TargetAttention(nn.Module):
    """LayerNorm(W_o [Σ_l a_l W_v v_l of every head]), a = softmax_l((W_q n(q)) · (W_k n(x_l)) / √w + match_l).

    n is one LayerNorm, and W_q and W_k start as one orthogonal matrix: whatever the scale of embeddings, equal things
    attract each other from the start. Without any row the readout is that of zeros.

    Args:
        d: width of queries and rows.
        heads: how many; each is w = ⌈d / heads⌉ wide.
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(head_width(d, heads))
        width = heads * head_width(d, heads)
        self.row_norm = nn.LayerNorm(d)
        self.query, self.key, self.value = (nn.Linear(d, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, d, bias=False)
        self.norm = nn.LayerNorm(d)
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)

    def forward(
        self, targets: Tensor, rows: Tensor, mask: Tensor, match: Tensor | None = None, values: Tensor | None = None
    ) -> Tensor:
        """Return (B, C, d).

        Args:
            targets: (B, C, d).
            rows: (B, N, d).
            mask: (B, N) bool, True where there is a row.
            match: (B, C, N) addition to the logits of every head.
            values: (B, N, d) what is read where a row is attended to; None for the normalised rows.
        """
        normed = self.row_norm(rows)
        read = masked_keys(normed if values is None else values, mask)
        query = split_heads(batch_invariant.matmul(self.row_norm(targets), self.query.weight.T), self.heads)
        logits = batch_invariant.bmm(query, split_heads(self.key(normed), self.heads).mT) * self.scale
        logits = logits.view(-1, self.heads, *logits.shape[1:])
        if match is not None:
            logits = logits + match.unsqueeze(1)
        weights = masked_softmax(logits, mask[:, None, None]).flatten(0, 1)
        found = batch_invariant.bmm(weights, split_heads(self.value(read), self.heads))
        out: Tensor = self.norm(batch_invariant.matmul(merge_heads(found, self.heads), self.out.weight.T))
        return out


class RowAttention(nn.Module):
    """W_o [Σ_l a_l W_v y_l of every head], a = softmax_l((W_q x) · (W_k y_l) / √w + bias_l).

    For rows of a user, among which is no candidate: its bits may depend on what stands beside a row.

    Args:
        d: width of all rows.
        heads: how many; each is w = ⌈d / heads⌉ wide.
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        width = heads * head_width(d, heads)
        self.query, self.key, self.value = (nn.Linear(d, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, d, bias=False)

    def forward(self, queries: Tensor, rows: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (B, Q, d); zero where a query has no row.

        Args:
            queries: (B, Q, d).
            rows: (B, N, d).
            mask: (B, Q, N) bool or what broadcasts to it, True where a query may read a row.
            bias: (B, heads, Q, N) addition to the logits, or what broadcasts to it.
        """
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, rows), (self.value, rows))
        )
        allowed = mask.unsqueeze(1)
        if bias is not None:
            allowed = bias.masked_fill(~allowed, -torch.inf)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out

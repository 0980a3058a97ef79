"""Self-attentive sequence: behaviours attend to those before them, once a user; then the target attends to all."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import InterestModel, Known
from model.interest.heads import by_head, head_width, masked_softmax, merge_heads, split_heads
from model.interest.newest import Newest
from model.interest.options import Sasrec
from model.kernels import batch_invariant


class Block(nn.Module):
    """x ← x + Attention(LN x), then x ← x + W2 ReLU(W1 LN x); each position attends to itself and those before.

    Args:
        d: width of positions.
        heads: of the attention.
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width(d, heads)
        self.attention_norm = nn.LayerNorm(d)
        self.attention_in = nn.Linear(d, 3 * inner)
        self.attention_out = nn.Linear(inner, d)
        self.forward_norm = nn.LayerNorm(d)
        self.forward_in = nn.Linear(d, d)
        self.forward_out = nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, d) of (B, N, d)."""
        parts = self.attention_in(self.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (by_head(split_heads(part, self.heads), self.heads) for part in parts)
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(read.transpose(1, 2).flatten(2))
        out: Tensor = x + self.forward_out(self.forward_in(self.forward_norm(x)).relu())
        return out


class TargetAttention(nn.Module):
    """a_l = softmax_l((W_q LN(q)) · (W_k x_l) / √w + match_l) of every head; LN(Σ_l a_l W_v x_l) of all heads together.

    W_q and W_k start as one orthogonal matrix, so that equal things attract each other from the start.

    Args:
        d: width of queries and of what is read.
        heads: how many.
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.width = heads * head_width(d, heads)
        self.query_norm = nn.LayerNorm(d)
        self.query = nn.Linear(d, self.width, bias=False)
        self.key = nn.Linear(d, self.width, bias=False)
        self.value = nn.Linear(d, self.width, bias=False)
        self.norm = nn.LayerNorm(self.width)
        nn.init.orthogonal_(self.query.weight)
        self.key.weight.data.copy_(self.query.weight.data)

    def forward(self, x: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None) -> Tensor:
        """Return (B, C, width).

        Args:
            x: (B, N, d) what is read.
            mask: (B, N) bool.
            targets: (B, C, d).
            match: (B, C, N) addition to the logits of every head.
        """
        query = batch_invariant.matmul(self.query_norm(targets), self.query.weight.T)
        query = split_heads(query, self.heads) / math.sqrt(self.width // self.heads)
        logits = batch_invariant.bmm(query, split_heads(self.key(x), self.heads).mT)
        logits = by_head(logits, self.heads)
        if match is not None:
            logits = logits + match.unsqueeze(1)
        weights = masked_softmax(logits, mask[:, None, None]).flatten(0, 1)
        read = merge_heads(batch_invariant.bmm(weights, split_heads(self.value(x), self.heads)), self.heads)
        normed: Tensor = self.norm(read)
        return normed


class SelfAttentiveSequence(InterestModel):
    """Causal self-attention over √d k_l + p, where p tells how many behaviours came since; then target attention.

    The encoder is that of SASRec (Kang and McAuley, ICDM 2018, sec. III) without dropout: scaled embeddings, learned
    positions, blocks of attention and a feed-forward layer of width d, LayerNorm before each and after all. The paper
    adds what comes out of a layer to what went in, the released code to its LayerNorm; here it is as in the paper.

    Adapted here: SASRec predicts the next item by the last position alone. To rank candidates, the encoder is computed
    once a user and every candidate attends to all positions, which is where match is added: returns [q, r]. Attention
    of several heads has an output layer.

    Args:
        d: width of keys and targets.
        options: how many behaviours, blocks and heads.
    """

    def __init__(self, d: int, options: Sasrec) -> None:
        super().__init__()
        self.d = d
        self.recent = options.recent
        self.ranks = nn.Parameter(0.02 * torch.randn(options.recent, d))
        self.blocks = nn.Sequential(*(Block(d, options.heads) for _ in range(options.blocks)))
        self.norm = nn.LayerNorm(d)
        self.attention = TargetAttention(d, options.heads)

    @property
    def width(self) -> int:
        """2d, or a little more if d is no multiple of the heads."""
        return self.d + self.attention.width

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, width); see `InterestModel.forward`."""
        newest = Newest.of(mask, self.recent)
        ranks = self.ranks.index_select(0, newest.ranks.flatten()).view(*newest.mask.shape, self.d)
        # What is padded comes after what is not, so nothing that is there attends to it.
        states = self.norm(self.blocks(math.sqrt(self.d) * newest.keys(keys) + ranks))
        read = self.attention(states, newest.mask, targets, newest.match(match))
        return torch.cat([targets, read], dim=-1)

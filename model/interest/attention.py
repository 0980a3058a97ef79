"""Sigmoid target attention in factored form, shared by SAM and DIN.

A unit scores behaviour k against queries by a small network over [u − k, u ⊙ k] of every query u. Its first
layer is affine in k: with weight blocks A_u, B_u (h × d each),

    pre = Σ_u (B_u diag u − A_u) k + (Σ_u A_u u + b),

so every candidate has an effective weight matrix of its own, candidates share the keys, and the (C, L, 2d) or
(C, L, 4d) tensor of features never exists: the largest one is (C, h, L).
"""

import torch
from torch import Tensor, nn

from model.interest.base import masked_keys
from model.kernels.sigmoids import attention_weights

_TILE = 2**18
"""Hidden values computed at a time when serving: 1 MiB."""

_NARROWEST = 128
"""Behaviours of a tile at least: a narrower matrix product is slow."""


class AttentionUnit(nn.Module):
    """Scores and readout of one attention over a sequence; sigmoid, no softmax: strong interests weigh more.

    Args:
        d: width of keys and queries.
        hidden: hidden width h.
        queries: how many queries look at a behaviour: 1 in DIN (the target), 2 in SAM (the target and the
            memory).
        normalise: LayerNorm on the readout.
    """

    def __init__(self, d: int, hidden: int, *, queries: int, normalise: bool) -> None:
        super().__init__()
        self.first = nn.Linear(2 * queries * d, hidden)
        self.second = nn.Linear(hidden, 1)
        self.norm: nn.Module = nn.LayerNorm(d) if normalise else nn.Identity()

    def forward(self, keys: Tensor, queries: list[Tensor], match: Tensor | None) -> Tensor:
        """Return the (B, C, d) readouts.

        Args:
            keys: (B, L, d + 1) behaviours of `with_ones`: zero where padded, the last component 1.
            queries: (B, C, d) each.
            match: (B, C, L) addition to the attention logits.
        """
        B, C, d = queries[0].shape
        L = keys.shape[1]
        blocks = torch.split(self.first.weight, d, dim=1)
        # Hidden units come before candidates, so that layer 2 is one product over contiguous memory.
        effective = -torch.stack(blocks[0::2]).sum(dim=0).unsqueeze(1)
        bias: Tensor = self.first.bias
        for query, difference, product in zip(queries, blocks[0::2], blocks[1::2], strict=True):
            effective = effective + query.unsqueeze(1) * product.unsqueeze(1)
            bias = bias + query @ difference.T
        weights = torch.cat([effective, bias.mT.unsqueeze(-1)], dim=-1)
        attend = self._attend if torch.is_grad_enabled() else self._attend_tiled
        readout: Tensor = self.norm(torch.bmm(attend(weights, keys, match), keys[..., :d]))
        return readout

    def _attend(self, weights: Tensor, keys: Tensor, match: Tensor | None) -> Tensor:
        """Return the (B, C, L) attention weights of (B, h, C, d + 1) layer-1 weights, with gradients."""
        (B, _, C, _), L = weights.shape, keys.shape[1]
        hidden = torch.bmm(weights.flatten(1, 2), keys.mT).sigmoid_().view(B, -1, C * L)
        logits = torch.bmm(self.second.weight.expand(B, 1, -1), hidden).view(B, C, L)
        logits += self.second.bias
        if match is not None:
            logits += match
        return logits.sigmoid_()

    def _attend_tiled(self, weights: Tensor, keys: Tensor, match: Tensor | None) -> Tensor:
        """Return what `_attend` does, without gradients: hidden units of some behaviours at a time, in the cache."""
        (B, h, C, _), L = weights.shape, keys.shape[1]
        second, bias = self.second.weight[0], self.second.bias.item()
        attention = weights.new_empty(B, C, L)
        step = min(L, max(_NARROWEST, _TILE // (h * C)))
        scratch = weights.new_empty(h * C * step)
        for b in range(B):
            rows = weights[b].flatten(0, 1)
            for start in range(0, L, step):
                tile = slice(start, min(start + step, L))
                width = tile.stop - start
                hidden = scratch[: h * C * width].view(h * C, width)
                torch.mm(rows, keys[b, tile].T, out=hidden)
                bonus = None if match is None else match[b, :, tile]
                attention_weights(hidden.view(h, C, width), second, bias, bonus, attention[b, :, tile])
        return attention


def with_ones(keys: Tensor, mask: Tensor) -> Tensor:
    """Return (B, L, d + 1): keys with exact zeros where padded, and a last component of 1.

    The zeros are the attention's mask: a padded behaviour adds nothing to a readout, whatever its weight. The
    ones carry the affine part of the first layer through the same matrix product.
    """
    masked = masked_keys(keys, mask)
    return torch.cat([masked, masked.new_ones(*masked.shape[:-1], 1)], dim=-1)

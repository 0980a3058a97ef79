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
from model.kernels import batch_invariant, batch_invariant_attention, by_user, gpu, learning, native


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

    def forward(self, behaviours: "Behaviours", queries: list[Tensor], match: Tensor | None) -> Tensor:
        """Return the (B, C, d) readouts.

        Args:
            behaviours: of B users.
            queries: (B, C, d) each.
            match: (B, C, L) addition to the attention logits.
        """
        if behaviours.laid is not None:
            learned: Tensor = self.norm(
                learning.readouts(behaviours.laid, queries, self.parameters_for_kernel(), match)
            )
            return learned
        weights = self._effective(queries)
        second, bias = self.second.weight, self.second.bias
        if behaviours.on_gpu is not None:
            readout = behaviours.on_gpu.readouts(weights, second, bias, match)
        elif behaviours.batch_invariant is not None:
            readout = behaviours.batch_invariant.readouts(weights, second, bias, match)
        elif behaviours.ends is not None:
            readout = by_user.readouts(behaviours.keys, behaviours.ends, weights, second, bias, match)
        else:
            readout = self._attend(behaviours.keys, weights, match)
        normed: Tensor = self.norm(readout)
        return normed

    def parameters_for_kernel(self) -> native.Unit:
        """Return the parameters as `model.kernels.native` takes them."""
        norm = self.norm
        normalisation = (norm.weight, norm.bias, norm.eps) if isinstance(norm, nn.LayerNorm) else None
        return native.Unit(self.first.weight, self.first.bias, self.second.weight, self.second.bias, normalisation)

    def _effective(self, queries: list[Tensor]) -> Tensor:
        """Return the (B, h, C, d + 1) weights of layer 1 that these queries make of it, the bias last."""
        blocks = torch.split(self.first.weight, queries[0].shape[-1], dim=1)
        # Hidden units come before candidates, so that layer 2 is one product over contiguous memory.
        effective = -torch.stack(blocks[0::2]).sum(dim=0).unsqueeze(1)
        bias: Tensor = self.first.bias
        for query, difference, product in zip(queries, blocks[0::2], blocks[1::2], strict=True):
            effective = effective + query.unsqueeze(1) * product.unsqueeze(1)
            bias = bias + batch_invariant.matmul(query, difference.T)
        return torch.cat([effective, bias.mT.unsqueeze(-1)], dim=-1)

    def weights(self, keys: Tensor, mask: Tensor, queries: list[Tensor], match: Tensor | None) -> Tensor:
        """Return the (B, C, L) weights of (B, L, d) behaviours in the readouts, without a kernel; 0 where padded."""
        ones = keys.new_ones(*keys.shape[:-1], 1)
        found = self._weights(torch.cat([keys, ones], dim=-1), self._effective(queries), match)
        return found.masked_fill(~mask.unsqueeze(1), 0.0)

    def _attend(self, keys: Tensor, weights: Tensor, match: Tensor | None) -> Tensor:
        return torch.bmm(self._weights(keys, weights, match), keys[..., :-1])

    def _weights(self, keys: Tensor, weights: Tensor, match: Tensor | None) -> Tensor:
        B, _, C, _ = weights.shape
        L = keys.shape[1]
        hidden = torch.bmm(weights.flatten(1, 2), keys.mT).sigmoid_().view(B, -1, C * L)
        logits = torch.bmm(self.second.weight.expand(B, 1, -1), hidden).view(B, C, L)
        logits += self.second.bias
        if match is not None:
            logits += match
        return logits.sigmoid_()


class Behaviours:
    """The keys of B users, made ready once for all passes.

    Attributes:
        laid: the same for the compiled kernel with gradients, where it is usable; then there is nothing else.
        keys: (B, L, d + 1) with exact zeros where padded, and a last component of 1. The zeros are the attention's
            mask: a padded behaviour adds nothing to a readout, whatever its weight. The ones carry the affine part
            of the first layer through the same matrix product.
        on_gpu: the same for the GPU's kernel, where it is usable.
        batch_invariant: the same for a CPU in torch without gradients.
        ends: of each user, how many keys are read, on a CPU; what lies beyond is not zero.

    Args:
        keys: (B, L, d).
        mask: (B, L) bool, True where there is a behaviour.
        counts: (B,) how many candidates each user has, the first ones; None for all. Nothing is read for the others.
    """

    def __init__(self, keys: Tensor, mask: Tensor, counts: Tensor | None = None) -> None:
        self.ends = by_user.ends(mask) if by_user.usable(keys) else None
        # What is never read needs no zeros.
        masked = keys if self.ends is not None and sum(self.ends) == mask.sum() else masked_keys(keys, mask)
        self.laid = None
        if self.ends is not None and learning.usable(masked):
            self.laid = learning.lay_out(masked, self.ends, counts)
            return
        self.batch_invariant = None
        if self.ends is not None and batch_invariant.usable(masked):
            self.batch_invariant = batch_invariant_attention.BatchInvariantBehaviours(masked, self.ends)
        self.on_gpu = gpu.GpuBehaviours(masked, mask) if gpu.usable(masked) else None
        self.keys = torch.cat([masked, masked.new_ones(*masked.shape[:-1], 1)], dim=-1)

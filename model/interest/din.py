"""Deep Interest Network: one attention of the target over the sequence, at any length."""

from typing import ClassVar

import torch
from torch import Tensor

from model.interest.attention import AttentionUnit, Behaviours
from model.interest.base import InterestModel, Known
from model.interest.options import Din
from model.kernels import native


class DeepInterest(InterestModel):
    """a_l = σ(w2 · σ(W1 [q − k_l, q ⊙ k_l] + b1) + b2 + match_l); r = LayerNorm(Σ_l a_l k_l); returns [q, r].

    After DIN (Zhou et al., KDD 2018, sec. 4.3), whose attention is not normalised over the sequence either.

    Args:
        d: width of keys and targets.
        options: hidden width and normalisation of the attention.
    """

    batch_invariant: ClassVar[bool] = True
    skips_padding: ClassVar[bool] = True

    def __init__(self, d: int, options: Din) -> None:
        super().__init__()
        self.d = d
        self.attention = AttentionUnit(d, options.attention_hidden, queries=1, normalise=options.normalise_readout)

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
        if native.usable(keys):
            unit = [self.attention.parameters_for_kernel()]
            bonuses = [None] * len(keys) if match is None else match
            found = [native.passes(*user, unit).readouts for user in zip(keys, mask, targets, bonuses, strict=True)]
            return torch.cat([targets, torch.cat(found)], dim=-1)
        return torch.cat(
            [
                targets,
                self.attention(Behaviours(keys, mask, None if known is None else known.counts), [targets], match),
            ],
            dim=-1,
        )

    def attention_weights(self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None) -> Tensor:
        """Return the (B, C, L) weights; see `InterestModel.attention_weights`."""
        return self.attention.weights(keys, mask, [targets], match)

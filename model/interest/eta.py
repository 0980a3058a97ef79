"""End-to-end Target Attention: attention over the behaviours whose signatures are nearest the candidate's."""

import torch
from torch import Tensor

from model.interest.base import InterestModel, Known, masked_keys
from model.interest.options import Eta
from model.interest.retrieval import Found, RetrievedAttention, normed_rows
from model.interest.signatures import agreement, draw_planes, sides


class EndToEndTargetAttention(InterestModel):
    """r = attention over the K behaviours of the least Hamming distance from the candidate; returns [q, r, q ⊙ r].

    After ETA (Chen et al., arXiv 2108.04468): signatures by SimHash of the embeddings that the attention reads, so that
    search and attention cannot drift apart, then multi-head target attention. 32 bits, 50 behaviours and 2 heads are
    those of FuxiCTR's port, where the search has no gradient either.

    Adapted here: of equal distances the newest behaviour is nearer; the attention is `RetrievedAttention`, with match
    added to its logits.

    Args:
        d: width of keys and targets.
        options: bits, K and heads.
    """

    planes: Tensor

    def __init__(self, d: int, options: Eta) -> None:
        super().__init__()
        self.d = d
        self.retrieved = options.retrieved
        self.register_buffer("planes", draw_planes(d, options.bits), persistent=False)
        self.attention = RetrievedAttention(d, options.heads)

    @property
    def width(self) -> int:
        """3d."""
        return 3 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 3d); see `InterestModel.forward`."""
        found = Found.highest(self.agreement(masked_keys(keys, mask), targets), mask.unsqueeze(1), self.retrieved)
        readout = self.attention(targets, normed_rows(keys, mask), found, match)
        return torch.cat([targets, readout, targets * readout], dim=-1)

    def agreement(self, keys: Tensor, targets: Tensor) -> Tensor:
        """Return (B, C, L): in how many bits (B, L, d) keys agree with (B, C, d) targets, less those they do not."""
        return agreement(sides(targets, self.planes), sides(keys, self.planes))

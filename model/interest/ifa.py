"""IFA: linear attention, in which a sequence is one matrix whatever the candidates."""

import torch
from torch import Tensor, nn

from model.interest.base import InterestModel, Known, masked_keys
from model.interest.heads import head_width, merge_heads, split_heads
from model.interest.multi_head import RowAttention
from model.interest.options import Ifa
from model.kernels import batch_invariant

_SHARPNESS = 4.0
"""How much of a feature vector its largest component takes."""
_LEAST = 1e-3
"""Least feature: no product of two vectors is so small that what is divided by it means nothing."""


class InteractionFidelity(InterestModel):
    """Every behaviour counts for every candidate, at a cost that is their sum and not their product.

    IFA (Yu et al., 2024) gives all candidates to a linear transformer at once and lets them attend to each other. Only
    its abstract was at hand: the equations are those of linear attention (Katharopoulos et al., ICML 2020), in heads:

        S = Σ_l φ(W_k n(k_l)) (W_v k_l)ᵀ,  z = Σ_l φ(W_k n(k_l)),  φ(x) ∝ softmax([4x, −4x]) + ε, of length 1
        r = φ(W_q n(q)) S / (φ(W_q n(q)) · z)

    and [q, LayerNorm(W_o r)] is returned; n is LayerNorm, and W_q and W_k start alike. φ is close to that of Hedgehog
    (Zhang et al., ICLR 2024): with the usual elu(x) + 1, a behaviour like the target hardly weighs more than others,
    and the readout is about their mean. No weight of a single behaviour exists to which a match could be added.

    With `among_candidates`, the second part also attends to that of all candidates of the list, by softmax and without
    positions, and adds what it finds. Scores then depend on the list, as the paper means them to. Its loss that aligns
    learning and serving is not known, and left out.

    Args:
        d: width of keys and targets.
        options: heads, and whether candidates attend to each other.
    """

    def __init__(self, d: int, options: Ifa) -> None:
        super().__init__()
        self.d = d
        self.heads = options.heads
        width = options.heads * head_width(d, options.heads)
        self.query_norm, self.key_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value = (nn.Linear(d, width) for _ in range(3))
        self.out = nn.Linear(width, d)
        self.norm = nn.LayerNorm(d)
        self.among = RowAttention(d, options.heads) if options.among_candidates else None
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)

    @property
    def width(self) -> int:
        """2d."""
        return 2 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,  # noqa: ARG002
        known: Known | None = None,
    ) -> Tensor:
        """Return (B, C, 2d); see `InterestModel.forward`."""
        keys = masked_keys(keys, mask)
        key = feature_map(split_heads(self.key(self.key_norm(keys)), self.heads))
        value = split_heads(self.value(keys), self.heads)
        # A last value of 1 has the same product sum the weights. Without behaviours all sums are 0.
        value = torch.cat([value, value.new_ones(*value.shape[:-1], 1)], dim=-1)
        of_heads = mask.repeat_interleave(self.heads, dim=0)
        state = torch.bmm(masked_keys(key, of_heads).mT, value)
        query = batch_invariant.linear(self.query, self.query_norm(targets))
        read = batch_invariant.bmm(feature_map(split_heads(query, self.heads)), state)
        readout = merge_heads(read[..., :-1] / read[..., -1:].clamp_min(_LEAST**2), self.heads)
        found = self.norm(batch_invariant.linear(self.out, readout))
        if self.among is not None:
            present = torch.ones_like(targets[..., 0], dtype=torch.bool) if known is None else known.target_mask
            found = found + self.among(found, found, present.unsqueeze(1))
        return torch.cat([targets, found], dim=-1)


def feature_map(x: Tensor) -> Tensor:
    """Return the positive (…, 2w) features of (…, w): of length 1, so that nothing is more like x than x itself."""
    sharp = _SHARPNESS * x
    features = torch.softmax(torch.cat([sharp, -sharp], dim=-1), dim=-1) + _LEAST
    return features / features.square().sum(dim=-1, keepdim=True).sqrt()

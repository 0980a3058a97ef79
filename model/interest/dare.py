"""DARE: one set of embeddings says what to attend to, another what it means."""

import math

import torch
from torch import Tensor, nn

from model.interest.base import ExtraLoss, InterestModel, Known, masked_keys
from model.interest.heads import masked_softmax
from model.interest.options import Dare
from model.interest.retrieval import Found
from model.kernels import batch_invariant


class DecoupledEmbeddings(InterestModel):
    """Attention by embeddings of its own, so that its gradients and those of what is represented do not conflict.

    After DARE (Feng et al., ICLR 2025, and the released code). Keys and targets are [E^R, E^A], for representation and
    for attention:

        s_l = E^A_l · E^A_q / √d_A + match_l
        T = the behaviours with the highest s, of equal ones the newest;  r = Σ_{l in T} softmax_T(s)_l E^R_l

    [q, r, q ⊙ r, m, q ⊙ m] is returned: q is E^R_q, and m the mean of all E^R_l, which the released code has as an
    option. The attention embeddings are read nowhere else. The auxiliary loss is that of the code: a small network on
    [q, r', q ⊙ r'], where r' attends to all behaviours, so that those learn that are not in T.

    Adapted here: match; time is part of both keys, by addition, where the code has tables and a logit for it; neither
    network has a BatchNorm, since candidates must not depend on each other.

    Args:
        d: width of keys and targets, the attention's embeddings included.
        options: widths of those, how many behaviours are in T, and the weight of the auxiliary loss.
    """

    def __init__(self, d: int, options: Dare) -> None:
        super().__init__()
        self.attention = sum(options.attention_dims)
        self.d = d - self.attention
        self.retrieved = options.retrieved
        self.weight = options.auxiliary
        self.auxiliary = (
            nn.Sequential(nn.Linear(3 * self.d, 64), nn.PReLU(), nn.Linear(64, 1)) if options.auxiliary else None
        )

    @property
    def width(self) -> int:
        """Five times the width of what represents."""
        return 5 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 5 · width of E^R); see `InterestModel.forward`."""
        keys = masked_keys(keys, mask)
        return self._vectors(self._logits(keys, targets, match), keys, mask, targets)

    def learn(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None,
        known: Known,  # noqa: ARG002
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return the same, and the auxiliary loss; see `InterestModel.learn`."""
        keys = masked_keys(keys, mask)
        logits = self._logits(keys, targets, match)
        vectors = self._vectors(logits, keys, mask, targets)
        if self.auxiliary is None:
            return vectors, None
        q, values = targets[..., : self.d], keys[..., : self.d]
        readout = torch.bmm(masked_softmax(logits, mask.unsqueeze(1)), values)
        second = self.auxiliary(torch.cat([q, readout, q * readout], dim=-1)).squeeze(-1)
        return vectors, lambda outcome: self.weight * outcome.loss(second)

    def _logits(self, keys: Tensor, targets: Tensor, match: Tensor | None) -> Tensor:
        """Return (B, C, L); what stands at padded behaviours means nothing."""
        ours, theirs = targets[..., self.d :], keys[..., self.d :]
        logits = batch_invariant.bmm(ours, theirs.mT) / math.sqrt(self.attention)
        return logits if match is None else logits + match

    def _vectors(self, logits: Tensor, keys: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        q, values = targets[..., : self.d], keys[..., : self.d]
        found = Found.highest(logits, mask.unsqueeze(1), self.retrieved)
        weights = masked_softmax(logits, found.among(keys.shape[1]))
        readout = batch_invariant.bmm(weights, values)
        mean = (values.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)).unsqueeze(1).expand_as(q)
        return torch.cat([q, readout, q * readout, mean, q * mean], dim=-1)

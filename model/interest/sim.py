"""Search-based Interest Model: attention over behaviours that a search found, by category or by dot product."""

import torch
from torch import Tensor, nn

from model.interest.base import ExtraLoss, InterestModel, Known
from model.interest.options import SimHard, SimSoft
from model.interest.retrieval import Found, RetrievedAttention, normed, normed_rows
from model.kernels import batch_invariant


class HardSearch(InterestModel):
    """r = attention over the K newest behaviours of the candidate's category; returns [q, r, q ⊙ r].

    After SIM (Pi et al., CIKM 2020), whose hard search keeps the behaviours of the candidate's category. A candidate
    without a category finds nothing.

    Adapted here: an embedding of the age is added into a key, where the paper puts it beside the item's; the attention
    is `RetrievedAttention`, with match added to its logits.

    Args:
        d: width of keys and targets.
        options: K and heads.
    """

    def __init__(self, d: int, options: SimHard) -> None:
        super().__init__()
        self.d = d
        self.retrieved = options.retrieved
        self.attention = RetrievedAttention(d, options.heads)

    @property
    def width(self) -> int:
        """3d."""
        return 3 * self.d

    def forward(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None = None, known: Known | None = None
    ) -> Tensor:
        """Return (B, C, 3d); see `InterestModel.forward`."""
        assert known is not None
        wanted = known.target_categories.unsqueeze(2)
        same = (wanted == known.categories.unsqueeze(1)) & (wanted != 0) & mask.unsqueeze(1)
        # Of equal scores the newest are found.
        found = Found.highest(torch.zeros_like(same, dtype=torch.float32), same, self.retrieved)
        readout = self.attention(targets, normed_rows(keys, mask), found, match)
        return torch.cat([targets, readout, targets * readout], dim=-1)


class SoftSearch(InterestModel):
    """r = attention over the K behaviours of the highest scores s; returns [q, r, q ⊙ r].

        s_l = (W_a n(q)) · (W_b n(k_l));  u = LayerNorm(Σ_l s_l n(k_l));  auxiliary logit = MLP([q, u, q ⊙ u])

    After SIM (Pi et al., CIKM 2020): the search learns W_a and W_b from a click loss of its own, on the sum over all
    behaviours; no gradient comes from behind the search. The sum without a softmax, two losses of equal weight, K and
    heads as in FuxiCTR's port. n is a LayerNorm without parameters.

    Adapted here: both matrices start as one orthogonal matrix; u is normalised, since such a sum grows with the length;
    an embedding of the age is added into a key, where the paper puts it beside the item's; the attention is
    `RetrievedAttention`, with match added to its logits.

    Args:
        d: width of keys and targets.
        options: K, heads, and weight of the auxiliary loss.
    """

    def __init__(self, d: int, options: SimSoft) -> None:
        super().__init__()
        self.d = d
        self.retrieved = options.retrieved
        self.auxiliary = options.auxiliary
        self.of_target, self.of_key = (nn.Linear(d, d, bias=False) for _ in range(2))
        nn.init.orthogonal_(self.of_target.weight)
        with torch.no_grad():
            self.of_key.weight.copy_(self.of_target.weight)
        self.sum_norm = nn.LayerNorm(d)
        self.auxiliary_head = nn.Sequential(nn.Linear(3 * d, d), nn.PReLU(), nn.Linear(d, 1))
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
        rows = normed_rows(keys, mask)
        with torch.no_grad():
            scores = batch_invariant.bmm(self._queries(targets), rows.mT)
        found = Found.highest(scores, mask.unsqueeze(1), self.retrieved)
        readout = self.attention(targets, rows, found, match)
        return torch.cat([targets, readout, targets * readout], dim=-1)

    def learn(
        self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None, known: Known
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return (B, C, 3d), and the loss of the search; see `InterestModel.learn`."""
        vectors = self(keys, mask, targets, match, known)
        logits = self.search_logits(normed_rows(keys, mask), targets)
        return vectors, lambda outcome: self.auxiliary * outcome.loss(logits)

    def search_logits(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Return the (B, C) logits of clicks, by the search alone.

        Without a softmax the sum is a product: Σ_l (p · k_l) k_l = p (Σ_l k_l k_lᵀ), and the bracket is the user's.
        """
        total = self.sum_norm(self._queries(targets) @ (rows.mT @ rows))
        logits: Tensor = self.auxiliary_head(torch.cat([targets, total, targets * total], dim=-1)).squeeze(-1)
        return logits

    def _queries(self, targets: Tensor) -> Tensor:
        """Return (B, C, d): what is compared with normalised keys as they are, W_bᵀ W_a n(q)."""
        return batch_invariant.matmul(normed(targets), self.of_target.weight.T @ self.of_key.weight)

"""LongVQ: attention to a sequence whose keys are a few codes, and to its end as it is."""

import math

import torch
from torch import Tensor, nn

from model.interest.base import ExtraLoss, InterestModel, Known, masked_keys
from model.interest.clusters import Clusters
from model.interest.heads import masked_softmax
from model.interest.newest import Newest
from model.interest.options import LongVq
from model.kernels import batch_invariant
from model.peers import ALONE, Sums

_KEPT = 0.99
"""How much of their usage and sums codes keep in a step."""
_DEAD = 0.1
"""A code used by less than this share of what each would be used by on average begins anew."""

_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples modulo 1 are spread evenly, and have no period that users could have as well."""


class QuantisedAttention(InterestModel):
    """Keys smoothed along time, then replaced by their codes, so that attention is to codes and not to behaviours.

    After LongVQ (Liu et al., IJCAI 2024), a mixer of sequences that is made here to read one for a target:

        h_t = α ⊙ k_t + (1 − α ⊙ δ) ⊙ h_{t−1}     EMA, in each channel (damped, as in Mega, Ma et al., ICLR 2023)
        x_t = k_t + σ(W_g k_t) ⊙ (h_t − k_t)      its gate
        y_t = LayerNorm(W_k x_t), of target q̂ = LayerNorm(W_q q)
        z_t = argmin_s ‖y_t − c_s‖, for all but the newest w behaviours
        a = softmax over codes of q̂ · c_s / √d + ln n_s, and over the newest of q̂ · y_t / √d + b_{place}
        r = LayerNorm(Σ_s a_s mean of W_v x_t with code s + Σ_t a_t W_v x_t)

    and [q, r] is returned. That is softmax attention to all behaviours, of which older ones have their code for a key.
    Quantised keys beside an embedded state-space layer, the local window and its bias, and straight-through gradients
    are the paper's, as reviews of it tell; the equations of its blocks were not at hand. Attention to codes by their
    counts, normalised keys, and codes learned as running means are as in Transformer-VQ (Lingle, ICLR 2024).

    Adapted here: match logits m of behaviours with the same code come together as ln Σ exp(m) in place of ln n; the
    state-space layer is the gated EMA.

    Codes are state: in each step they move towards the mean of their keys, and what is hardly used begins anew at a
    key of the step. They stand still when the model is read.

    Args:
        d: width of keys and targets.
        options: how many codes, w, and the weight of the loss that draws keys to their codes.
    """

    codes: Tensor
    usage: Tensor
    sums: Tensor

    def __init__(self, d: int, options: LongVq) -> None:
        super().__init__()
        self.d = d
        self.window = options.window
        self.weight = options.commitment
        self.average = GatedAverage(d)
        self.key, self.query, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.key_norm, self.query_norm, self.norm = (nn.LayerNorm(d) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(options.window))
        nn.init.orthogonal_(self.key.weight)
        with torch.no_grad():
            self.query.weight.copy_(self.key.weight)
        self.register_buffer("codes", torch.randn(options.codes, d))
        self.register_buffer("usage", torch.zeros(options.codes))
        self.register_buffer("sums", torch.zeros(options.codes, d))

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
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 2d); see `InterestModel.forward`."""
        states = self.average(masked_keys(keys, mask))
        exact = self.key_norm(self.key(states))
        return self._read(states, exact, self._nearest(exact), mask, targets, match)

    def learn(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None,
        known: Known,  # noqa: ARG002
    ) -> tuple[Tensor, ExtraLoss | None]:
        """Return the same, and the commitment loss; see `InterestModel.learn`."""
        states = self.average(masked_keys(keys, mask))
        exact = self.key_norm(self.key(states))
        nearest = self._nearest(exact)
        vectors = self._read(states, exact, nearest, mask, targets, match)
        if not self.weight or not mask.any():
            return vectors, None
        distances = (exact - self.codes[nearest]).square().mean(dim=-1)[mask]
        return vectors, lambda _: self.weight * distances.mean()

    def observe(self, keys: Tensor, mask: Tensor, sums: Sums = ALONE) -> None:
        """Move the codes; see `InterestModel.observe`."""
        exact = sums.concatenated(self.key_norm(self.key(self.average(masked_keys(keys, mask))))[mask])
        if not len(exact):
            return
        S = len(self.codes)
        nearest = self._nearest(exact)
        share = 1 / len(exact)
        self.usage.mul_(_KEPT).index_add_(0, nearest, exact.new_full((len(exact),), share), alpha=1 - _KEPT)
        self.sums.mul_(_KEPT).index_add_(0, nearest, exact, alpha=(1 - _KEPT) * share)
        dead = (self.usage < _DEAD / S).nonzero().flatten()[: len(exact)]
        # Drawn from all users alike, but the same whenever this step is taken.
        chosen = (torch.arange(1, len(dead) + 1, device=dead.device).double() * _GOLDEN % 1 * len(exact)).long()
        self.usage[dead] = 1 / S
        self.sums[dead] = exact[chosen] / S
        used = self.usage > 0
        self.codes[used] = self.sums[used] / self.usage[used].unsqueeze(-1)

    @torch.no_grad()
    def _nearest(self, exact: Tensor) -> Tensor:
        """Return (…,) the code nearest to each of (…, d) keys."""
        return (self.codes.square().sum(dim=-1) / 2 - exact @ self.codes.T).argmin(dim=-1)

    def _read(
        self, states: Tensor, exact: Tensor, nearest: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None
    ) -> Tensor:
        newest, S = Newest.of(mask, self.window), len(self.codes)
        first_of_window = mask.sum(dim=1, keepdim=True) - self.window
        old = mask & (torch.arange(mask.shape[1], device=mask.device) < first_of_window)
        coded = Clusters.of(nearest.masked_fill(~old, S), S)
        values, means = self.value(states), coded.means(exact)
        # Straight through: behaviours of a code get the gradient of its key.
        rows = torch.cat([self.codes + (means - means.detach()), newest.keys(exact)], dim=1)
        read = torch.cat([coded.means(values), newest.keys(values)], dim=1)
        present = torch.cat([coded.sizes > 0, newest.mask], dim=1).unsqueeze(1)
        sizes, bonus = coded.log_sizes(match, exact.dtype), self.bias[newest.ranks].unsqueeze(1)
        of_newest = newest.match(match)
        if of_newest is not None:
            bonus = bonus + of_newest
        query = self.query_norm(batch_invariant.matmul(targets, self.query.weight.T))
        logits = batch_invariant.bmm(query, rows.mT) / math.sqrt(self.d) + torch.cat([sizes, bonus], dim=-1)
        readout = self.norm(batch_invariant.bmm(masked_softmax(logits, present), read))
        return torch.cat([targets, readout], dim=-1)


class GatedAverage(nn.Module):
    """x_t = k_t + σ(W k_t + b) ⊙ (h_t − k_t), h_t = α ⊙ k_t + (1 − α ⊙ δ) ⊙ h_{t−1}.

    The gate starts nearly closed: a behaviour is itself, until its context is found to tell more.

    Args:
        d: channels.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.linspace(-3.0, 0.0, d))
        self.damping = nn.Parameter(torch.full((d,), 2.0))
        self.gate = nn.Linear(d, d)
        nn.init.constant_(self.gate.bias, -3.0)

    def forward(self, keys: Tensor) -> Tensor:
        """Return (B, L, d) of (B, L, d) keys; what comes later changes nothing."""
        L = keys.shape[1]
        rate = self.rate.sigmoid()
        kept = 1 - rate * self.damping.sigmoid()
        ages = torch.arange(L, device=keys.device, dtype=keys.dtype).unsqueeze(1)
        # The recurrence is a convolution with α (1 − α δ)^age; twice the length keeps it from coming round.
        response = torch.fft.rfft(rate * kept**ages, n=2 * L, dim=0)
        averages = torch.fft.irfft(torch.fft.rfft(keys, n=2 * L, dim=1) * response, n=2 * L, dim=1)[:, :L]
        gated: Tensor = keys + self.gate(keys).sigmoid() * (averages - keys)
        return gated

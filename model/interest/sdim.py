"""Sampling-based Deep Interest Modeling: a candidate reads its bucket in each of a user's hash tables."""

import torch
from torch import Tensor
from torch.nn import functional

from model.interest.base import InterestModel, Known, masked_keys
from model.interest.options import Sdim
from model.interest.signatures import draw_planes, sides
from model.kernels import batch_invariant


class HashedInterest(InterestModel):
    """T[g, b] = Σ_{l: s_g(k_l) = b} k_l; r = mean_g T[g, s_g(q)] / ‖T[g, s_g(q)]‖; returns [q, r, q ⊙ r].

    s_g(x) is the signature of x under the planes of table g, a number below 2^bits. A behaviour at an angle θ from the
    candidate shares its bucket with probability (1 − θ/π)^bits. The tables depend on the user alone.

    After SDIM (Cao et al., CIKM 2022): hashing, and the L2 norm of each bucket. That norm, of the sum and before the
    mean, is as in FuxiCTR's port, where it is an option; so are 4 bits. Hashing has no gradient; keys have one, through
    the sums.

    Adapted here: 16 tables, where the port has 2 (the paper is said to have 48 planes, 3 a table); q ⊙ r beside r,
    since how alike the two are is what a bucket tells; the port's attention over the newest behaviours is left out.

    Args:
        d: width of keys and targets.
        options: tables and bits.
    """

    planes: Tensor
    powers: Tensor
    firsts: Tensor

    def __init__(self, d: int, options: Sdim) -> None:
        super().__init__()
        self.d = d
        self.bits = options.bits
        self.register_buffer("planes", draw_planes(d, options.hashes * options.bits), persistent=False)
        self.register_buffer("powers", 2 ** torch.arange(options.bits), persistent=False)
        self.register_buffer("firsts", 2**options.bits * torch.arange(options.hashes), persistent=False)

    @property
    def width(self) -> int:
        """3d."""
        return 3 * self.d

    def forward(
        self,
        keys: Tensor,
        mask: Tensor,
        targets: Tensor,
        match: Tensor | None = None,  # noqa: ARG002
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 3d); see `InterestModel.forward`."""
        keys = masked_keys(keys, mask)
        tables = self._buckets(keys).mT @ keys
        # Normalised by bucket, once, and not by candidate.
        normalised = functional.normalize(tables, dim=-1)
        readout = batch_invariant.bmm(self._buckets(targets), normalised) / len(self.firsts)
        return torch.cat([targets, readout, targets * readout], dim=-1)

    def _buckets(self, x: Tensor) -> Tensor:
        """Return (B, N, hashes · 2^bits), of each (B, N, d) vector a 1 in its bucket of every table."""
        bits = sides(x, self.planes).view(*x.shape[:2], -1, self.bits)
        buckets = (bits * self.powers).sum(dim=-1) + self.firsts
        return x.new_zeros(*x.shape[:2], len(self.firsts) * 2**self.bits).scatter_(-1, buckets, 1.0)

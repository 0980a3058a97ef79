"""MIRRN: three queries of different scales find behaviours, each find is mixed along time, the target weighs them."""

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.interest.base import InterestModel, Known, masked_keys
from model.interest.heads import head_width
from model.interest.newest import Newest
from model.interest.options import Mirrn
from model.interest.retrieval import Found
from model.interest.signatures import agreement, draw_planes, sides
from model.kernels import batch_invariant

_PLACES = 32
"""Rows of the table of places, two a doubling of the distance from the end."""
_PLACE_SCALE = 0.02


class MultiGranularityInterest(InterestModel):
    """What is near the target, near the newest behaviours, and near all of them.

    After MIRRN (Xu et al., KDD 2025) in the form of its released code:

        code(x) = 1[x R > 0], R ~ N(0, 1) and never learned
        queries: q, the mean of the newest behaviours, and the mean of all
        of each, the K behaviours with the nearest codes (Hamming), in the order of time:
            E = keys + 0.02 place;  Z = LayerNorm(E + irfft(W ⊙ rfft(E)));  I = mean of Z over time
        u = attention of q, in several heads, to the three I

    and [q, u] is returned. W has one complex number a channel in the code, for all frequencies: its product of blocks
    reads their diagonals alone. `per_frequency` is the filter that the same file defines and does not use.

    Adapted here: where fewer than K behaviours are found, padding is zero and not part of the mean, as in FuxiCTR's
    port; of equally near behaviours the newest; places, which count from the end, share a row where they are far; W_q
    and W_k start alike. There is no dropout, and no second attention to a short history. No single behaviour has a
    weight to which a match could be added.

    Args:
        d: width of keys and targets.
        options: K, the width of codes, how many behaviours are the newest, W, and heads.
    """

    rotations: Tensor

    def __init__(self, d: int, options: Mirrn) -> None:
        super().__init__()
        self.d = d
        self.retrieved = options.retrieved
        self.recent = options.recent
        self.register_buffer("rotations", draw_planes(d, options.bits), persistent=False)
        self.places = nn.Parameter(torch.randn(_PLACES, d))
        self.refinements = nn.ModuleList(
            FourierMixing(d, options.retrieved, per_frequency=options.filter == "per_frequency") for _ in range(3)
        )
        self.attention = InterestAttention(d, options.heads)

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
        known: Known | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return (B, C, 2d); see `InterestModel.forward`."""
        keys = masked_keys(keys, mask)
        counts = mask.sum(dim=1, keepdim=True)
        newest = Newest.of(mask, self.recent)
        short = newest.keys(keys).sum(dim=1) / newest.mask.sum(dim=1, keepdim=True).clamp_min(1)
        everything = keys.sum(dim=1) / counts.clamp_min(1)
        codes = sides(keys, self.rotations)
        placed = masked_keys(keys + _PLACE_SCALE * self.places[places_from_end(mask)], mask)
        of_targets = sides(targets, self.rotations)
        of_user = sides(torch.stack([short, everything], dim=1), self.rotations)
        found = [
            nearest(query, codes, mask, self.retrieved)
            for query in (of_targets, *(each.unsqueeze(1) for each in of_user.unbind(dim=1)))
        ]
        interests = [
            refine(gathered(placed, places), places < counts.unsqueeze(-1))
            for refine, places in zip(self.refinements, found, strict=True)
        ]
        together = torch.stack([each.expand_as(targets) for each in interests], dim=2)
        return torch.cat([targets, self.attention(targets, together)], dim=-1)


def places_from_end(mask: Tensor) -> Tensor:
    """Return (B, L) rows of the table of places: ⌊2 log2(1 + n)⌋ of the n behaviours that came later."""
    later = mask.sum(dim=1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)
    return (2 * torch.log2(1 + later.clamp_min(0).double())).long().clamp_max(_PLACES - 1)


def nearest(queries: Tensor, codes: Tensor, mask: Tensor, count: int) -> Tensor:
    """Return the (B, Q, count) places of the nearest codes, ascending; L where there is none.

    Args:
        queries: (B, Q, bits) bool, sides of planes.
        codes: (B, L, bits) of behaviours.
        mask: (B, L) bool.
        count: how many places.
    """
    L = codes.shape[1]
    found = Found.highest(agreement(queries, codes), mask.unsqueeze(1), count)
    places = found.places.masked_fill(~found.there, L).sort(dim=-1).values
    return functional.pad(places, (0, count - places.shape[-1]), value=L)


def gathered(keys: Tensor, places: Tensor) -> Tensor:
    """Return (B, Q, K, d) keys at (B, Q, K) places of (B, L, d), zero at place L."""
    padded = functional.pad(keys, (0, 0, 0, 1))
    at = places.flatten(1).unsqueeze(-1).expand(-1, -1, keys.shape[-1])
    return padded.gather(1, at).view(*places.shape, -1)


class FourierMixing(nn.Module):
    """mean over time of LayerNorm(E + irfft(W ⊙ rfft(E))), as products with constant matrices.

    Args:
        d: channels.
        length: of E.
        per_frequency: whether W has a row for each frequency, not one for all.
    """

    def __init__(self, d: int, length: int, *, per_frequency: bool) -> None:
        super().__init__()
        frequencies = length // 2 + 1
        self.weight = nn.Parameter(0.02 * torch.randn(2, d, frequencies if per_frequency else 1))
        self.norm = nn.LayerNorm(d)
        self.length = length

    def forward(self, found: Tensor, mask: Tensor) -> Tensor:
        """Return (B, Q, d) of (B, Q, K, d) keys, zero where padded, of which (B, Q, K) are there."""
        forth, back = fourier_matrices(self.length, found.dtype, found.device)
        spectrum = batch_invariant.matmul(found.mT, forth)
        real, imaginary = spectrum.chunk(2, dim=-1)
        a, b = self.weight
        filtered = torch.cat([a * real - b * imaginary, a * imaginary + b * real], dim=-1)
        mixed = batch_invariant.matmul(filtered, back)
        normed = self.norm(found + mixed.mT).masked_fill(~mask.unsqueeze(-1), 0.0)
        total: Tensor = normed.mT.contiguous().sum(dim=-1)
        return total / mask.sum(dim=-1, keepdim=True).clamp_min(1)


@cache
def fourier_matrices(length: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the (K, 2F) matrix of rfft and the (2F, K) one of irfft; F real parts come before F imaginary ones."""
    with torch.inference_mode(mode=False):
        forth = torch.fft.rfft(torch.eye(length, dtype=torch.float64))
        unit = torch.eye(forth.shape[1], dtype=torch.complex128)
        back = torch.fft.irfft(torch.cat([unit, 1j * unit]), n=length)
        return torch.cat([forth.real, forth.imag], dim=1).to(device, dtype), back.to(device, dtype)


class InterestAttention(nn.Module):
    """W_o [Σ_j a_j W_v I_j of every head], a = softmax_j((W_q q) · (W_k I_j) / √w), each candidate with I of its own.

    Args:
        d: width of all of them.
        heads: how many; each is w = ⌈d / heads⌉ wide.
    """

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        width = heads * head_width(d, heads)
        self.query, self.key, self.value = (nn.Linear(d, width) for _ in range(3))
        self.out = nn.Linear(width, d)
        nn.init.orthogonal_(self.query.weight)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)

    def forward(self, targets: Tensor, interests: Tensor) -> Tensor:
        """Return (B, C, d) of (B, C, d) targets and (B, C, J, d) interests."""
        query, key, value = (
            batch_invariant.linear(layer, x).view(*x.shape[:-1], self.heads, -1)
            for layer, x in ((self.query, targets.unsqueeze(2)), (self.key, interests), (self.value, interests))
        )
        logits = (query * key).sum(dim=-1) / math.sqrt(key.shape[-1])
        weights = torch.softmax(logits.mT.contiguous(), dim=-1).mT
        # One by one: a sum over few interests is not along the last dimension.
        read = sum(weights[:, :, j].unsqueeze(-1) * value[:, :, j] for j in range(value.shape[2]))
        assert isinstance(read, Tensor)
        return batch_invariant.linear(self.out, read.flatten(2))

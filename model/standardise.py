"""Numbers on one scale, whatever they are: less their mean, over their standard deviation, both as they have been."""

import torch
from torch import Tensor, nn

from model.peers import ALONE, Sums

WINDOW = 2.0**18
"""Candidates that means and variances remember, once so many have come."""
_LARGEST = 5.0
"""Standard deviations from the mean beyond which a number tells no more."""
_OUTLIER = 10.0
"""Standard deviations beyond which a number is observed as being there, once `_ENOUGH` have come: one sets no scale."""
_ENOUGH = 100.0
_LEAST = 1e-4
"""Added to a variance: a number that never changes stays near 0."""


class Standardise(nn.Module):
    """(x − mean) / √variance, within ±5; a number that is missing (NaN) becomes 0, as an average one.

    Mean and variance are buffers: published and kept with the parameters.

    Args:
        width: of the numbers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("seen", torch.zeros(width))
        self.mean: Tensor
        self.variance: Tensor
        self.seen: Tensor

    def forward(self, numbers: Tensor) -> Tensor:
        """Return (..., width) standardised numbers, each by itself."""
        return _standardised(numbers, self.mean, self.variance)

    def by_last(self, numbers: Tensor) -> Tensor:
        """Return (..., w) numbers by the scale of the last w of the width."""
        first = len(self.mean) - numbers.shape[-1]
        return _standardised(numbers, self.mean[first:], self.variance[first:])

    @torch.no_grad()
    def observe(self, numbers: Tensor, sums: Sums = ALONE) -> None:
        """Take (n, width) numbers into the means and variances; one that is not finite is left out.

        Args:
            numbers: of this rank's batch.
            sums: adds up over the ranks.
        """
        there = torch.isfinite(numbers)
        counts = sums.total(there.sum(dim=0))
        self.seen.add_(counts).clamp_(max=WINDOW)
        share = (counts / self.seen.clamp_min(1.0)).clamp(max=1.0)
        before = torch.where(there, numbers - self.mean, 0.0)
        bound = torch.where(self.seen < _ENOUGH + counts, torch.inf, _OUTLIER * (self.variance + _LEAST).sqrt())
        before = before.clamp(-bound, bound)
        shift = sums.total(before.sum(dim=0)) / counts.clamp_min(1)
        # Later values are measured from the mean to come, which keeps the variance right while the mean moves.
        mean = self.mean + share * shift
        squares = sums.total((before * (before + self.mean - mean).where(there, 0.0)).sum(dim=0)) / counts.clamp_min(1)
        self.mean.copy_(mean)
        self.variance.lerp_(squares, share)


def _standardised(numbers: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    scaled = (numbers - mean) * (variance + _LEAST).rsqrt()
    return scaled.nan_to_num(0.0, _LARGEST, -_LARGEST).clamp(-_LARGEST, _LARGEST)

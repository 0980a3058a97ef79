"""Numbers on one scale, whatever they are: less their mean, over their standard deviation, both as they have been."""

import torch
from torch import Tensor, nn

WINDOW = 2.0**18
"""Candidates that means and variances remember, once so many have come."""
_LARGEST = 5.0
"""Standard deviations from the mean beyond which a number tells no more."""
_LEAST = 1e-4
"""Added to a variance: a number that never changes stays near 0."""


class Standardise(nn.Module):
    """(x − mean) / √variance, within ±5. Mean and variance are buffers: published and kept with the parameters.

    Args:
        width: of the numbers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("seen", torch.zeros(()))
        self.mean: Tensor
        self.variance: Tensor
        self.seen: Tensor

    def forward(self, numbers: Tensor) -> Tensor:
        """Return (..., width) standardised numbers, each by itself."""
        scale = (self.variance + _LEAST).rsqrt()
        return ((numbers - self.mean) * scale).clamp(-_LARGEST, _LARGEST)

    @torch.no_grad()
    def observe(self, numbers: Tensor) -> None:
        """Take (n, width) numbers into the mean and the variance; where one is not finite, all n are left out."""
        if not len(numbers) or not torch.isfinite(numbers).all():
            return
        self.seen.add_(len(numbers)).clamp_(max=WINDOW)
        share = (len(numbers) / self.seen).clamp(max=1.0)
        before = numbers - self.mean
        self.mean.lerp_(numbers.mean(dim=0), share)
        self.variance.lerp_((before * (numbers - self.mean)).mean(dim=0), share)

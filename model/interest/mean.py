"""Average pooling: the sequence as one mean, the same for every candidate. The baseline without attention."""

import torch
from torch import Tensor

from model.interest.base import InterestModel, masked_keys


class MeanPooling(InterestModel):
    """r = mean of the keys; returns [q, r, q ⊙ r]. An empty sequence has the mean 0.

    Args:
        d: width of keys and targets.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = d

    @property
    def width(self) -> int:
        """3d."""
        return 3 * self.d

    def forward(self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return (B, C, 3d); see `InterestModel.forward`."""
        counts = mask.sum(dim=1, keepdim=True).clamp_min(1)
        mean = masked_keys(keys, mask).sum(dim=1) / counts
        readout = mean.unsqueeze(1).expand_as(targets)
        return torch.cat([targets, readout, targets * readout], dim=-1)

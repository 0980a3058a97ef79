"""Average pooling: the sequence as one mean, the same for every candidate. The baseline without attention."""

from typing import ClassVar

import torch
from torch import Tensor

from model.interest.base import InterestModel, Known, masked_keys
from model.interest.options import Mean


class MeanPooling(InterestModel):
    """r = mean of the keys; returns [q, r, q ⊙ r]. An empty sequence has the mean 0.

    Args:
        d: width of keys and targets.
        options: there are none.
    """

    batch_invariant: ClassVar[bool] = True

    def __init__(self, d: int, options: Mean) -> None:  # noqa: ARG002
        super().__init__()
        self.d = d

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
        return self.of(masked_keys(keys, mask).sum(dim=1), mask, targets)

    def of(self, sums: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Return the same, given the (B, d) sums of keys that are not masked."""
        mean = sums / mask.sum(dim=1, keepdim=True).clamp_min(1)
        readout = mean.unsqueeze(1).expand_as(targets)
        return torch.cat([targets, readout, targets * readout], dim=-1)

"""The newest behaviours alone, for models whose cost does not let them read more."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.interest.base import masked_keys


@dataclass(frozen=True, slots=True)
class Newest:
    """Up to R newest behaviours of every user, at least one place, still oldest first and left-aligned.

    Attributes:
        places: (B, R) where they stood among all; any place where padded.
        mask: (B, R) bool.
    """

    places: Tensor
    mask: Tensor

    @classmethod
    def of(cls, mask: Tensor, recent: int) -> "Newest":
        """Return the newest so many of a (B, L) mask."""
        counts = mask.sum(dim=1, keepdim=True)
        R = max(1, min(recent, mask.shape[1]))
        order = torch.arange(R, device=mask.device)
        return cls((counts - R).clamp_min(0) + order, order < counts)

    def keys(self, keys: Tensor) -> Tensor:
        """Return their (B, R, d) keys of (B, L, d), exact zeros where padded."""
        keys = _filled(keys, 1)
        places = self.places.unsqueeze(-1).expand(-1, -1, keys.shape[-1])
        return masked_keys(keys.gather(1, places), self.mask)

    def known(self, numbers: Tensor) -> Tensor:
        """Return their (B, R) numbers of (B, L), 0 where padded."""
        return _filled(numbers, 1).gather(1, self.places) * self.mask

    def match(self, match: Tensor | None) -> Tensor | None:
        """Return their (B, C, R) logits of (B, C, L), if there are any; what stands where padded means nothing."""
        if match is None:
            return None
        return _filled(match, 2).gather(2, self.places.unsqueeze(1).expand(-1, match.shape[1], -1))

    @property
    def ranks(self) -> Tensor:
        """(B, R) int64: 0 for a user's newest behaviour, 1 for the one before; 0 where padded."""
        last = self.mask.sum(dim=1, keepdim=True) - 1
        return (last - torch.arange(self.mask.shape[1], device=self.mask.device)).clamp_min(0)


def _filled(tensor: Tensor, dim: int) -> Tensor:
    """Return it with a padded place along `dim`, if it has none at all."""
    if tensor.shape[dim]:
        return tensor
    return functional.pad(tensor, (0, 1) if dim == tensor.ndim - 1 else (0, 0, 0, 1))

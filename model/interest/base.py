"""The contract of every interest model: embedded sequence and candidates in, one vector per candidate out."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class InterestModel(nn.Module, ABC):
    """Reads a user's sequence for each candidate.

    Candidates do not see each other, so a batch of them equals one by one; padded positions and their content
    change nothing. An empty sequence gives a finite vector.
    """

    @property
    @abstractmethod
    def width(self) -> int:
        """Width k of the vector of one candidate."""

    @abstractmethod
    def forward(self, keys: Tensor, mask: Tensor, targets: Tensor, match: Tensor | None = None) -> Tensor:
        """Return (B, C, k).

        Args:
            keys: (B, L, d) embedded behaviours, oldest first.
            mask: (B, L) bool, True where there is a behaviour.
            targets: (B, C, d) embedded candidates.
            match: (B, C, L) addition to the attention logits; a model without attention ignores it.
        """


def masked_keys(keys: Tensor, mask: Tensor) -> Tensor:
    """Return (B, L, d) keys with exact zeros where padded, so that those add nothing to any weighted sum."""
    return keys.masked_fill(~mask.unsqueeze(-1), 0.0)

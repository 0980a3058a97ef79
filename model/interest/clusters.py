"""Behaviours in groups: sizes, means, and what a group adds to an attention logit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels import batch_invariant


@dataclass(frozen=True, slots=True)
class Clusters:
    """B users' behaviours in up to K groups each.

    Softmax attention to all behaviours of groups of equal keys is one over the groups, if ln n is added to the logit of
    one of n behaviours, and its value is their mean.

    Attributes:
        labels: (B, L) int64 group of each behaviour; K for those that are in none.
        sizes: (B, K) int64, 0 for an empty group.
    """

    labels: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, labels: Tensor, groups: int) -> "Clusters":
        """Return groups of (B, L) labels, of which `groups` means none."""
        counts = labels.new_zeros(len(labels), groups + 1)
        return cls(labels, counts.scatter_add_(1, labels, torch.ones_like(labels))[:, :-1])

    def sums(self, vectors: Tensor) -> Tensor:
        """Return (B, K, d) sums of the (B, L, d) vectors in each group."""
        B, _, d = vectors.shape
        total = vectors.new_zeros(B, self.sizes.shape[1] + 1, d)
        return total.scatter_add(1, self.labels.unsqueeze(-1).expand(-1, -1, d), vectors)[:, :-1]

    def means(self, vectors: Tensor) -> Tensor:
        """Return (B, K, d) means of the (B, L, d) vectors in each group, 0 for an empty one."""
        return self.sums(vectors) / self.sizes.clamp_min(1).unsqueeze(-1)

    def log_sizes(self, match: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return (B, C, K) what is added to a group's logit: ln Σ exp(match) over its behaviours, without match ln n.

        Args:
            match: (B, C, L), for which C is 1 where there is none.
            dtype: of the result without match.
        """
        if match is None:
            return self.sizes.clamp_min(1).to(dtype).log().unsqueeze(1)
        B, C = match.shape[:2]
        largest = match.detach().amax(dim=-1, keepdim=True)
        weights = batch_invariant.elementwise(torch.exp, match - largest)
        totals = weights.new_zeros(B, C, self.sizes.shape[1] + 1)
        totals = totals.scatter_add(-1, self.labels.unsqueeze(1).expand(-1, C, -1), weights)[..., :-1]
        # What is further below the largest than this is attended to as little.
        return batch_invariant.elementwise(torch.log, totals.clamp_min(1e-30)) + largest

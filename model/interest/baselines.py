"""Networks that know nothing of the user: baselines for every other arm."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from model.batch import Batch
from model.embedding.initial import mix
from model.spec import ModelSpec

PRIOR = 0.1
"""The click probability that an untrained network starts from."""

PRIOR_LOGIT = math.log(PRIOR / (1.0 - PRIOR))


class Popularity(nn.Module):
    """How often an item is clicked: a bias, one learned number an item, and one a category.

    All numbers start at zero, so a new item is as good as its category, and a new category as the prior: neither best
    nor worst. The numbers are the embedding tables' (of width 1), so they learn online as embeddings do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(PRIOR_LOGIT))

    def forward(self, batch: Batch, targets: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C) logits from (B, C, 2) numbers of item and category.

        Raises:
            ValueError: when `targets` is None.
        """
        if targets is None:
            raise ValueError("kind 'popularity' reads embeddings, but targets is None")
        logits: Tensor = self.bias + targets.sum(dim=-1)
        return logits


class Random(nn.Module):
    """A random order, the same for the same request: a hash of seed, time of the request, and item.

    Probabilities are uniform between 0 and twice `PRIOR`, so that their mean is the prior. Nothing learns.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = np.uint64(seed % 2**64)

    def forward(self, batch: Batch, targets: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return (B, C) float32 logits; the embeddings are not read."""
        moments = mix(batch.ts.cpu().numpy().view(np.uint64) ^ mix(np.array([self._seed])))
        words = mix(batch.target_items.cpu().numpy().view(np.uint64) ^ moments[:, None])
        # 21 bits keep their order through float32 logits and a sigmoid; the half keeps the ends out.
        uniforms = ((words >> np.uint64(43)).astype(np.float64) + 0.5) / 2**21
        probabilities = 2 * PRIOR * uniforms
        logits = np.log(probabilities / (1 - probabilities)).astype(np.float32)
        return torch.from_numpy(logits).to(batch.target_items.device)


def build_baseline(spec: ModelSpec, seed: int) -> nn.Module | None:
    """Return the network of `spec` when its kind reads nothing of the history; None for the other kinds."""
    match spec.kind:
        case "popularity":
            return Popularity()
        case "random":
            return Random(seed)
        case _:
            return None

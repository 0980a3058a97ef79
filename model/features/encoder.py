"""How a network reads features: what they bring to a candidate, and to the attention keys."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.features.gather import FeatureBatch, columns, columns_of, width
from model.kernels import batch_invariant
from model.peers import ALONE, Sums
from model.standardise import Standardise
from state.feature import Feature

FEATURE_DIM = 8
"""Width of the embedding of a text."""


class FeatureEncoder(nn.Module):
    """Features of callers as vectors for the head, and as moves of attention keys and targets.

    Features of items move candidates and keys by one projection, those of behaviours the keys by another. Both
    projections start at zero: a feature that was just added changes nothing.

    Args:
        features: what the model reads.
        d: width of keys and targets; 0 for a model without.
    """

    def __init__(self, features: tuple[Feature, ...], d: int) -> None:
        super().__init__()
        read = columns_of(features)
        self._read = read
        self.numbers = width(read.shown_numbers)
        """Numbers of a candidate."""
        self.embedded = FEATURE_DIM * len(read.shown_keys)
        """Width of a candidate's embedded texts."""
        self._item_numbers = _width(read.past_numbers, "item")
        item = self._item_numbers + FEATURE_DIM * _count(read.past_keys, "item")
        own_numbers = _width(read.past_numbers, "behavior")
        own = own_numbers + FEATURE_DIM * _count(read.past_keys, "behavior")
        self.standardise = Standardise(own_numbers) if own_numbers and d else None
        self.item = _from_zero(item, d) if item and d else None
        self.behavior = _from_zero(own, d) if own and d else None

    @property
    def axes(self) -> dict[str, tuple[list[str] | None, ...]]:
        """What lies along the axes of its parameters, as in `model.features.schema_change`."""
        read = self._read
        own = [*names(read.past_numbers, of="behavior"), *names(read.past_keys, of="behavior", embedded=True)]
        item = [*names(read.past_numbers, of="item"), *names(read.past_keys, of="item", embedded=True)]
        numbers = names(read.past_numbers, of="behavior")
        return {
            "item.weight": (None, item),
            "behavior.weight": (None, own),
            **{f"standardise.{name}": (numbers,) for name in ("mean", "variance", "seen")},
        }

    def texts(self, batch: FeatureBatch, vectors: Tensor) -> Tensor:
        """Return (B, C, `embedded`): the embedding of each of a candidate's texts; of several, their mean.

        Args:
            batch: the features.
            vectors: (B, C, m, `FEATURE_DIM`) embeddings of `shown_keys`.
        """
        return torch.cat(_means(vectors, batch.shown_keys, self._read.shown_keys), dim=-1)

    def move_targets(self, standardised: Tensor, batch: FeatureBatch, vectors: Tensor) -> Tensor | None:
        """Return what (B, C, d) targets are moved by; None for nothing.

        Args:
            standardised: (B, C, n) numbers of the candidates, those of features last.
            batch: the features.
            vectors: (B, C, m, `FEATURE_DIM`) embeddings of `shown_keys`.
        """
        if self.item is None:
            return None
        numbers = standardised[..., standardised.shape[-1] - self._item_numbers :]
        parts = [numbers, *_means(vectors, batch.shown_keys, self._read.shown_keys, "item")]
        return batch_invariant.matmul(torch.cat(parts, dim=-1), self.item.weight.T)

    def move_keys(self, scale: Standardise | None, batch: FeatureBatch, vectors: Tensor) -> Tensor | None:
        """Return what (B, L, d) keys are moved by; None for nothing.

        Args:
            scale: how the numbers of candidates are standardised, those of items last; here they are as well.
            batch: the features.
            vectors: (B, L, m', `FEATURE_DIM`) embeddings of `past_keys`.
        """
        moves = []
        of_items, own = batch.past_numbers.tensor_split([self._item_numbers], dim=-1)
        if self.item is not None:
            numbers = of_items if scale is None else scale.by_last(of_items)
            parts = [numbers, *_means(vectors, batch.past_keys, self._read.past_keys, "item")]
            moves.append(batch_invariant.matmul(torch.cat(parts, dim=-1), self.item.weight.T))
        if self.behavior is not None:
            numbers = own if self.standardise is None else self.standardise(own)
            parts = [numbers, *_means(vectors, batch.past_keys, self._read.past_keys, "behavior")]
            moves.append(batch_invariant.matmul(torch.cat(parts, dim=-1), self.behavior.weight.T))
        return sum(moves[1:], moves[0]) if moves else None

    def observe(self, batch: FeatureBatch, mask: Tensor, sums: Sums = ALONE) -> None:
        """Take the numbers of behaviours into the scale by which they are standardised."""
        if self.standardise is not None:
            self.standardise.observe(batch.past_numbers[..., self._item_numbers :][mask], sums)


def names(features: Sequence[Feature], of: str = "", *, embedded: bool = False) -> list[str]:
    """Return the names of the columns of features (of something), or of their embeddings.

    One that is defined otherwise has other names.
    """
    return [
        f"{_defined(feature)}/{'embedding/' * embedded}{place}"
        for feature in features
        if of in ("", feature.of)
        for place in range(FEATURE_DIM if embedded else feature.size)
    ]


def _defined(feature: Feature) -> str:
    return f"{feature.name}:{feature.of}:{feature.kind}:{feature.size}"


def _means(vectors: Tensor, keys: Tensor, features: Sequence[Feature], of: str = "") -> list[Tensor]:
    """Return, for each feature (of something), the (..., f) mean of the embeddings of its values; 0 without any."""
    means = []
    for feature, at in zip(features, columns(features).values(), strict=True):
        if of in ("", feature.of):
            there = (keys[..., at] != 0).unsqueeze(-1)
            sums = vectors[..., at, :].masked_fill(~there, 0.0).sum(dim=-2)
            means.append(sums / there.sum(dim=-2).clamp_min(1))
    return means


def _width(features: Sequence[Feature], of: str) -> int:
    return width([feature for feature in features if feature.of == of])


def _count(features: Sequence[Feature], of: str) -> int:
    return sum(feature.of == of for feature in features)


def _from_zero(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer

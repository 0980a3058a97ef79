"""The features of examples as padded tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.example import Example
from state.behavior import BehaviorArray
from state.feature import Feature
from state.records import Records


@dataclass(frozen=True, slots=True)
class Columns:
    """Which features are columns of which tensor, in this order.

    Attributes:
        shown_numbers: numbers of a candidate: of its request, then its own.
        shown_keys: the same of texts.
        past_numbers: numbers of a behaviour: of its item, then its own.
        past_keys: the same of texts.
    """

    shown_numbers: tuple[Feature, ...]
    shown_keys: tuple[Feature, ...]
    past_numbers: tuple[Feature, ...]
    past_keys: tuple[Feature, ...]

    @property
    def matched(self) -> tuple[Feature, ...]:
        """The features of items that are one text: candidates and behaviours can have the same."""
        return tuple(feature for feature in self.past_keys if feature.of == "item" and feature.kind == "category")

    @property
    def matched_at(self) -> tuple[tuple[int, int], ...]:
        """Of each of `matched`, its column among `shown_keys`, and among `past_keys`."""
        shown, past = columns(self.shown_keys), columns(self.past_keys)
        return tuple((shown[feature.name].start, past[feature.name].start) for feature in self.matched)


@lru_cache(maxsize=256)
def columns_of(features: tuple[Feature, ...]) -> Columns:
    """Return the columns of a model that reads these features."""
    known = sorted(features, key=lambda feature: feature.name)
    request = [feature for feature in known if feature.of in ("context", "user")]
    item = [feature for feature in known if feature.of == "item"]
    behavior = [feature for feature in known if feature.of == "behavior"]
    return Columns(
        tuple(feature for feature in (*request, *item) if not feature.embeds),
        tuple(feature for feature in (*request, *item) if feature.embeds),
        tuple(feature for feature in (*item, *behavior) if not feature.embeds),
        tuple(feature for feature in (*item, *behavior) if feature.embeds),
    )


def columns(features: Sequence[Feature]) -> dict[str, slice]:
    """Return where the columns of each feature are, by its name."""
    found: dict[str, slice] = {}
    start = 0
    for feature in features:
        found[feature.name] = slice(start, start + feature.size)
        start += feature.size
    return found


def width(features: Sequence[Feature]) -> int:
    """Return how many columns features have together."""
    return sum(feature.size for feature in features)


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Features of B examples, as `Columns` has them; what is missing or padded is NaN, or key 0.

    Attributes:
        shown_numbers: (B, C, n) float32 of the candidates.
        shown_keys: (B, C, m) int64 keys of the table of features.
        past_numbers: (B, L, n') float32 of the behaviours.
        past_keys: (B, L, m') int64.
    """

    shown_numbers: Tensor
    shown_keys: Tensor
    past_numbers: Tensor
    past_keys: Tensor


def gather_features(
    examples: Sequence[Example],
    sequences: Sequence[BehaviorArray],
    features: tuple[Feature, ...],
    sizes: tuple[int, int],
    device: torch.device | str,
) -> FeatureBatch:
    """Return the features of examples.

    Args:
        examples: B of them.
        sequences: of each, the behaviours that are read, oldest first.
        features: what the model reads; those that an example does not have are missing.
        sizes: L and C.
        device: where the tensors shall lie.
    """
    read, (L, C) = columns_of(features), sizes
    B = len(examples)
    shown_numbers = np.full((B, C, width(read.shown_numbers)), np.nan, np.float32)
    shown_keys = np.zeros((B, C, width(read.shown_keys)), np.uint64)
    past_numbers = np.full((B, L, width(read.past_numbers)), np.nan, np.float32)
    past_keys = np.zeros((B, L, width(read.past_keys)), np.uint64)
    shown, past = _placed(read.shown_numbers, read.shown_keys), _placed(read.past_numbers, read.past_keys)
    for row, (example, sequence) in enumerate(zip(examples, sequences, strict=True)):
        c, n = len(example.items), len(sequence)
        for records in (example.context, example.attributes):
            if records is not None:
                _fill(shown_numbers[row, :c], shown_keys[row, :c], records, shown)
        _fill(past_numbers[row, :n], past_keys[row, :n], sequence, past)

    def tensor(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return FeatureBatch(
        tensor(shown_numbers),
        tensor(shown_keys.view(np.int64)),
        tensor(past_numbers),
        tensor(past_keys.view(np.int64)),
    )


_Placed = Sequence[tuple[Feature, slice, np.uint64]]
"""Features with their columns, and what their keys begin with."""


def _placed(numbers: Sequence[Feature], keys: Sequence[Feature]) -> _Placed:
    return [
        (feature, at, np.uint64(feature.table_prefix))
        for features in (numbers, keys)
        for feature, at in zip(features, columns(features).values(), strict=True)
    ]


def _fill(numbers: npt.NDArray[np.float32], keys: npt.NDArray[np.uint64], records: Records, placed: _Placed) -> None:
    """Write what records have into their columns; one record of a request is that of all its candidates."""
    there = records.dtype.names or ()
    for feature, at, prefix in placed:
        if feature.name not in there:
            continue
        values = records[feature.name]
        if feature.embeds:
            keys[:, at] = np.where(values == 0, np.uint64(0), values | prefix)
        else:
            # Of prices, durations and counts the order of magnitude tells; and one that is far off stays near.
            numbers[:, at] = np.arcsinh(values) if feature.kind == "number" else values

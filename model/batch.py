"""Examples of different lengths as one set of padded tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.example import Example
from model.features.gather import FeatureBatch, gather_features
from state.feature import Feature

GAP_BUCKETS = 64
"""Time gaps fall into two buckets per doubling, from under half a second (0) to 95 years and more (63)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples: up to L behaviours each, left-aligned and oldest first, and up to C candidates each.

    Keys are int64 views of the unsigned keys; 0 fills what is padded. L and C are at least 1.

    Attributes:
        history_items: (B, L) int64 item keys.
        history_categories: (B, L) int64 category keys, 0 for none.
        history_actions: (B, L) int64 action keys, 0 for none.
        gap_buckets: (B, L) int64 in [0, 64): time from the behaviour to the request (`gap_bucket`).
        mask: (B, L) bool, True where there is a behaviour.
        target_items: (B, C) int64 item keys.
        target_categories: (B, C) int64 category keys, 0 for none.
        target_mask: (B, C) bool, True where there is a candidate.
        labels: (B, C) float32; None when an example has none.
        ts: (B,) int64, the moment of the request in milliseconds.
        numbers: (B, C, n) float32 of the candidates; zeros where an example has none.
        features: of callers; None where the model reads none.
        positions: (B, C) int64 places at which candidates were shown; None when an example has none.
    """

    history_items: Tensor
    history_categories: Tensor
    history_actions: Tensor
    gap_buckets: Tensor
    mask: Tensor
    target_items: Tensor
    target_categories: Tensor
    target_mask: Tensor
    labels: Tensor | None
    ts: Tensor
    numbers: Tensor
    features: FeatureBatch | None = None
    positions: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        """B, how many behaviours each example has."""
        lengths: list[int] = self.mask.sum(dim=1).tolist()
        return lengths


def gap_bucket(gaps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return ⌊2 log2(1 + seconds)⌋ in [0, 63] of gaps in milliseconds; a negative gap counts as 0.

    >>> gap_bucket(np.array([-5, 0, 1_000, 3_000, 2**48])).tolist()
    [0, 0, 2, 4, 63]
    """
    doublings = np.log2(1.0 + np.maximum(gaps, 0) / 1000.0)
    return np.minimum(2.0 * doublings, GAP_BUCKETS - 1).astype(np.int64)


def collate(
    examples: Sequence[Example],
    *,
    length: int,
    numbers: int = 0,
    features: tuple[Feature, ...] = (),
    device: torch.device | str = "cpu",
) -> Batch:
    """Pad examples to one batch; of each sequence only the newest `length` behaviours stay.

    L is the longest sequence that remains and C the longest candidate list, both at least 1.

    Args:
        examples: at least one.
        length: most behaviours of each.
        numbers: how many numbers of each candidate are read; 0 to leave out what examples have. One without any gets
            zeros: items as frequent as all others.
        features: of callers that are read.
        device: where the batch shall lie.

    Raises:
        ValueError: when there is no example, or an example has another number of numbers.
    """
    if not examples:
        raise ValueError("no examples: a batch needs at least one")
    sequences = [example.sequence[max(len(example.sequence) - length, 0) :] for example in examples]
    B = len(examples)
    L = max(1, *(len(sequence) for sequence in sequences))
    C = max(1, *(len(example.items) for example in examples))

    history_items = np.zeros((B, L), np.uint64)
    history_categories = np.zeros((B, L), np.int64)
    history_actions = np.zeros((B, L), np.int64)
    gaps = np.zeros((B, L), np.int64)
    target_items = np.zeros((B, C), np.uint64)
    target_categories = np.zeros((B, C), np.int64)
    labels = np.zeros((B, C), np.float32)
    positions = np.zeros((B, C), np.int64)
    of_candidates = np.zeros((B, C, numbers), np.float32)
    for row, (example, sequence) in enumerate(zip(examples, sequences, strict=True)):
        n, c = len(sequence), len(example.items)
        history_items[row, :n] = sequence["item"]
        history_categories[row, :n] = sequence["category"]
        history_actions[row, :n] = sequence["action"]
        gaps[row, :n] = example.ts - sequence["ts"]
        target_items[row, :c] = example.items
        target_categories[row, :c] = example.categories
        if example.labels is not None:
            labels[row, :c] = example.labels
        if example.positions is not None:
            positions[row, :c] = example.positions
        if numbers and example.numbers is not None:
            of_candidates[row, :c] = _checked(example.numbers, numbers)

    def tensor(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    lengths = np.array([[len(sequence)] for sequence in sequences])
    counts = np.array([[len(example.items)] for example in examples])
    labelled = all(example.labels is not None for example in examples)
    return Batch(
        history_items=tensor(history_items.view(np.int64)),
        history_categories=tensor(history_categories),
        history_actions=tensor(history_actions),
        gap_buckets=tensor(gap_bucket(gaps)),
        mask=tensor(np.arange(L) < lengths),
        target_items=tensor(target_items.view(np.int64)),
        target_categories=tensor(target_categories),
        target_mask=tensor(np.arange(C) < counts),
        labels=tensor(labels) if labelled else None,
        ts=tensor(np.array([example.ts for example in examples], np.int64)),
        numbers=tensor(of_candidates),
        features=gather_features(examples, sequences, features, (L, C), device) if features else None,
        positions=tensor(positions) if all(example.positions is not None for example in examples) else None,
    )


def _checked(numbers: npt.NDArray[np.float32], width: int) -> npt.NDArray[np.float32]:
    if numbers.shape[1] != width:
        raise ValueError(f"candidates with {numbers.shape[1]} numbers, where the model reads {width}")
    return numbers

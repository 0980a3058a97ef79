"""Small random examples and embeddings for tests of the model."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.batch import Batch
from model.example import Example
from model.interest.base import Known
from model.spec import HALF_LIVES_S, count_numbers
from state.behavior import BEHAVIOR
from state.feature import Feature
from state.feature_layout import FeatureLayout
from state.records import KEYS, converted, fields_of, missing

NOW = 1_700_000_000_000


FEATURES = (
    Feature("brand", "item", "category"),
    Feature("dwell", "behavior", "number"),
    Feature("hour", "context", "number"),
    Feature("picture", "item", "vector", 3),
    Feature("price", "item", "number"),
    Feature("shop", "behavior", "category"),
    Feature("tags", "item", "categories", 3),
    Feature("tier", "user", "category"),
)
"""One of each kind, of all that features can describe."""


def item_keys(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Spread small numbers over all 64 bits, so that about half of the keys are negative as int64."""
    return numbers.astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)


def example(rng: np.random.Generator, length: int, candidates: int, *, labelled: bool = True) -> Example:
    """Draw from 20 items of 6 categories, 0 among them, so that candidates and history match often."""
    bought = rng.integers(1, 21, length)
    offered = rng.integers(1, 21, candidates)
    sequence = np.zeros(length, BEHAVIOR)
    sequence["item"] = item_keys(bought)
    sequence["category"] = bought % 6
    sequence["action"] = rng.integers(0, 3, length)
    sequence["ts"] = NOW - np.sort(rng.integers(-1000, 10**9, length))[::-1]
    return Example(
        sequence=sequence,
        ts=NOW,
        items=item_keys(offered),
        categories=(offered % 6).astype(np.uint32),
        labels=rng.integers(0, 2, candidates).astype(np.float32) if labelled else None,
        # What is known of an item at one moment is the same wherever it stands.
        numbers=3 * np.sin(offered[:, None] * np.arange(1.0, count_numbers(HALF_LIVES_S) + 1)).astype(np.float32),
    )


def featured(rng: np.random.Generator, length: int, candidates: int, *, labelled: bool = True) -> Example:
    """Draw an example with features, some of them missing; brands are few, so that candidates and history match."""
    plain, layout = example(rng, length, candidates, labelled=labelled), FeatureLayout.of(FEATURES)
    records = [missing(count, record) for count, record in ((1, layout.context), (candidates, layout.item))]
    sequence = converted(plain.sequence, layout.behavior).copy()
    for array in (*records, sequence):
        for name, kind, size in fields_of(array.dtype):
            there = rng.random(len(array)) < 0.8
            drawn = rng.integers(1, 5, (len(array), size)) if kind == KEYS else rng.normal(2.0, 3.0, (len(array), size))
            array[name][there] = drawn[there]
    return replace(plain, sequence=sequence, context=records[0], attributes=records[1])


def nothing_known(mask: Tensor, target_mask: Tensor) -> Known:
    """Return what is known of behaviours and candidates without any key: which of them are there."""
    keys, of_targets = torch.zeros_like(mask, dtype=torch.int64), torch.zeros_like(target_mask, dtype=torch.int64)
    return Known(keys, keys, keys, keys, of_targets, of_targets, target_mask)


def embed_features(batch: Batch, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return the vectors of the keys of past and of shown features, pure functions of them."""
    assert batch.features is not None
    frequencies = torch.arange(1, width + 1, dtype=torch.float64)
    past, shown = (
        torch.sin((keys % 1009).double().unsqueeze(-1) * frequencies).to(dtype)
        for keys in (batch.features.past_keys, batch.features.shown_keys)
    )
    return past, shown


def embed(batch: Batch, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return (B, L, width) history and (B, C, width) targets, pure functions of item and category keys."""
    frequencies = torch.arange(1, width + 1, dtype=torch.float64)

    def vectors(items: Tensor, categories: Tensor) -> Tensor:
        phase = (items.double() * 1e-18 + categories.double()).unsqueeze(-1)
        return torch.sin(phase * frequencies).to(dtype)

    return (
        vectors(batch.history_items, batch.history_categories),
        vectors(batch.target_items, batch.target_categories),
    )

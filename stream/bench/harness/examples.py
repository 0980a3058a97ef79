"""Random requests for benchmarks of the model, whose cost does not depend on the content."""

import numpy as np

from model.example import Example
from state.behavior import BEHAVIOR

CATEGORIES = 500
NOW = 1_700_000_000_000
_SPREAD = np.uint64(0x9E37_79B9_7F4A_7C15)


def example(
    rng: np.random.Generator, length: int, candidates: int, *, items: int = 100_000, labelled: bool = False
) -> Example:
    """Draw a request: `length` behaviours within a month, `candidates`, and labels if wanted, from `items` items."""
    taken, offered = rng.integers(1, items, length), rng.integers(1, items, candidates)
    sequence = np.zeros(length, BEHAVIOR)
    sequence["item"] = taken.astype(np.uint64) * _SPREAD
    sequence["category"] = 1 + taken % CATEGORIES
    sequence["action"] = rng.integers(0, 3, length)
    sequence["ts"] = NOW - np.sort(rng.integers(0, 30 * 86_400_000, length))[::-1]
    return Example(
        sequence=sequence,
        ts=NOW,
        items=offered.astype(np.uint64) * _SPREAD,
        categories=(1 + offered % CATEGORIES).astype(np.uint32),
        labels=(rng.random(candidates) < 0.2).astype(np.float32) if labelled else None,
    )


def mixed_lengths(rng: np.random.Generator, users: int, low: int, high: int) -> list[int]:
    """Draw lengths, log-uniform from `low` to `high`."""
    return [int(length) for length in np.exp(rng.uniform(np.log(low), np.log(high), users))]

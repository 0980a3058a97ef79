"""Random requests for benchmarks of the model, whose cost does not depend on the content."""

from typing import Any

import numpy as np
import numpy.typing as npt

from model.embedding.keys import Keys
from model.example import Example
from state.behavior import BEHAVIOR
from stream.schema.dedup import GOLDEN_RATIO
from stream.schema.units import DAY_MS

CATEGORIES = 500
NOW = 1_700_000_000_000


def example(
    rng: np.random.Generator, length: int, candidates: int, *, items: int = 100_000, labelled: bool = False
) -> Example:
    """Draw a request: `length` behaviours within a month, `candidates`, and labels if wanted, from `items` items."""
    taken, offered = rng.integers(1, items, length), rng.integers(1, items, candidates)
    sequence = np.zeros(length, BEHAVIOR)
    sequence["item"] = spread_keys(taken)
    sequence["category"] = 1 + taken % CATEGORIES
    sequence["action"] = rng.integers(0, 3, length)
    sequence["ts"] = NOW - np.sort(rng.integers(0, 30 * DAY_MS, length))[::-1]
    return Example(
        sequence=sequence,
        ts=NOW,
        items=spread_keys(offered),
        categories=(1 + offered % CATEGORIES).astype(np.uint32),
        labels=(rng.random(candidates) < 0.2).astype(np.float32) if labelled else None,
    )


def spread_keys(numbers: npt.NDArray[Any]) -> Keys:
    """Return a key of 64 bits for each number, as irregular as hashes of items are: other ones for other numbers.

    The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Multiples of a number would not do: how many of
    these meet in a hash table depends on luck.
    """
    keys = numbers.astype(np.uint64) * GOLDEN_RATIO
    keys = (keys ^ keys >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ keys >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    spread: Keys = keys ^ keys >> np.uint64(31)
    return spread


def mixed_lengths(rng: np.random.Generator, users: int, low: int, high: int) -> list[int]:
    """Draw lengths, log-uniform from `low` to `high`."""
    return [int(length) for length in np.exp(rng.uniform(np.log(low), np.log(high), users))]

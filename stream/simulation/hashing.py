"""Random numbers that are a pure function of a key: nothing is stored, and they can be computed in any order."""

import numpy as np
import numpy.typing as npt

from model.embedding.initial import mix
from stream.schema.dedup import GOLDEN_RATIO

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]


def uniform(keys: Keys, salt: np.uint64) -> Floats:
    """Hash to (0, 1) by SplitMix64 (`mix`)."""
    hashed = mix(GOLDEN_RATIO + (keys ^ mix(GOLDEN_RATIO + np.full(1, salt))))
    return ((hashed >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


def normal(keys: Keys, salt: np.uint64) -> Floats:
    """Hash to a standard normal value: Box-Muller over two uniforms."""
    first, second = uniform(keys, salt), uniform(keys, salt + np.uint64(1 << 63))
    drawn: Floats = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    return drawn

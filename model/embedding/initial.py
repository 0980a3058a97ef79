"""Initial vectors: a pure function of (seed, key), so that a key that was never learned needs no row and no message."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.embedding.keys import Keys

_GAMMA = np.uint64(0x9E37_79B9_7F4A_7C15)
_LANES = np.uint64(0x0000_FFFF_0000_FFFF)
_LOW = np.uint64(0xFFFF_FFFF)


class Initial(NamedTuple):
    """What the initial vectors of a table come from: a seed, and their standard deviation."""

    seed: int
    std: float


def mix(words: Keys) -> Keys:
    """Return the output function of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of each word."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return words ^ (words >> np.uint64(31))


def initial_vectors(keys: Keys, dim: int, initial: Initial | None) -> npt.NDArray[np.float32]:
    """Return (n, dim) initial vectors of (n,) keys, with mean 0 and the standard deviation of `initial`.

    Each coordinate is the scaled sum of the four 16-bit lanes of a splitmix64 word: close to normal, and
    integer arithmetic up to one rounding, so that it is the same to the bit on every machine. Key 0 gives
    zeros, and so does every key without `initial`.
    """
    if initial is None:
        return np.zeros((len(keys), dim), np.float32)
    start = mix(keys ^ mix(np.array([initial.seed % 2**64], np.uint64)))
    words = mix(start[:, None] + np.arange(1, dim + 1, dtype=np.uint64) * _GAMMA)
    pairs = (words & _LANES) + ((words >> np.uint64(16)) & _LANES)
    sums = ((pairs & _LOW) + (pairs >> np.uint64(32))).astype(np.float32)
    scale = initial.std / np.sqrt(4 * (2.0**32 - 1) / 12)
    vectors: npt.NDArray[np.float32] = (sums - np.float32(2 * 0xFFFF)) * np.float32(scale)
    vectors[keys == 0] = 0
    return vectors

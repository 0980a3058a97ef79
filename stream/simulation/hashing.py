"""Random numbers that are a pure function of a key, so that nothing has to be stored and any can be asked for first."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]


def uniform(keys: Keys, salt: np.uint64) -> Floats:
    """Hash to (0, 1) by SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    hashed = _mix(keys ^ _mix(np.full(1, salt)))
    return ((hashed >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


def normal(keys: Keys, salt: np.uint64) -> Floats:
    """Hash to a standard normal value: Box-Muller over two uniforms."""
    first, second = uniform(keys, salt), uniform(keys, salt + np.uint64(1 << 63))
    drawn: Floats = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
    return drawn


def _mix(z: Keys) -> Keys:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

"""The items of the simulated world: where they stand, when they live, how good they are.

The catalogue has a fixed number of places, each in one category and with one rank of popularity. A place
holds one item after the other. Item `i` is the `i // places`-th to stand on place `i % places`, and
everything about it follows from the seed and `i` by hashing, so that nothing has to be stored, and any moment
can be asked for in any order.
"""

import numpy as np
import numpy.typing as npt

from stream.simulation.config import WorldConfig

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TASTE_DIM = 4


class Catalogue:
    """All items that ever live, by index.

    Attributes:
        places: number of places, `categories * items_per_category`.
        popularity: (places,) shares of attention; they sum to 1.
    """

    def __init__(self, config: WorldConfig, *, seed: int, start: int) -> None:
        self._config, self._seed, self._start = config, seed, start
        self.places = config.categories * config.items_per_category
        rng = np.random.default_rng([seed, 1])
        ranks = np.arange(1, config.items_per_category + 1, dtype=np.float64)
        crowd = rng.lognormal(sigma=0.5, size=(config.categories, 1))
        self.popularity: Floats = (crowd * ranks**-config.long_tail).ravel()
        self.popularity /= self.popularity.sum()
        self._life_ms = 1000 * config.lifetime_s * rng.uniform(0.5, 1.5, self.places)
        self._age = rng.uniform(0, 1, self.places)
        # Three waves of different periods: nearly normal at any moment, smooth, never repeating within hours.
        self._periods_ms = 1000 * config.drift_s * rng.uniform(0.6, 1.8, (config.categories, 3))
        self._phases = rng.uniform(0, 2 * np.pi, (config.categories, 3))

    def alive(self, ts: int) -> Ints:
        """Return the (places,) items that stand on the places at `ts` (ms)."""
        # Before the start, the places hold what they hold at the start.
        lives = np.floor((ts - self._start) / self._life_ms + self._age)
        return np.maximum(lives, 0).astype(np.int64) * self.places + np.arange(self.places)

    def category(self, items: Ints) -> Ints:
        """Return the category of each item."""
        return items % self.places // self._config.items_per_category

    def vectors(self, items: Ints) -> Floats:
        """Return the (n, `TASTE_DIM`) standard normal vectors that meet the users' tastes."""
        return self._normal(items, TASTE_DIM)

    def appeal(self, items: Ints, ts: int) -> Floats:
        """Return what quality and, at `ts` (ms), fashion add to the log odds of a click on each item."""
        quality = self._config.quality * self._normal(items, 1, lane=TASTE_DIM)[:, 0]
        appeal: Floats = quality + self.fashion(ts)[self.category(items)]
        return appeal

    def fashion(self, ts: int) -> Floats:
        """Return the (categories,) appeal of each category at `ts` (ms)."""
        angles = 2 * np.pi * (ts - self._start) / self._periods_ms + self._phases
        waves: Floats = np.sin(angles).sum(axis=1)
        drift: Floats = self._config.fashion * np.sqrt(2 / 3) * waves
        return drift

    def _normal(self, items: Ints, width: int, *, lane: int = 0) -> Floats:
        """Standard normal values by (seed, item, lane): Box-Muller over two hashed uniforms."""
        lanes = np.arange(lane, lane + width, dtype=np.uint64)
        keys = (items.astype(np.uint64)[:, None] << np.uint64(8)) + lanes
        salt = np.uint64(self._seed % 2**64)
        first, second = _uniform(keys, salt), _uniform(keys, salt + np.uint64(1 << 63))
        normal: Floats = np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
        return normal


def _uniform(keys: npt.NDArray[np.uint64], salt: np.uint64) -> Floats:
    """Hash to (0, 1) by SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    hashed = _mix(keys ^ _mix(np.full(1, salt)))
    return ((hashed >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

"""The items of the simulated world: their places, lifetimes, quality and popularity.

The catalogue has a fixed number of places, each in one category and with one rank of popularity. A place
holds one item after the other. Item `i` is the `i // places`-th to stand on place `i % places`, and
everything about it follows from the seed and `i` by hashing, so that nothing has to be stored, and any moment
can be asked for in any order.
"""

import numpy as np

from stream.simulation.config import WorldConfig
from stream.simulation.hashing import Floats, Ints, normal, uniform
from stream.simulation.shifts import Shifts

TASTE_DIM = 4


class Catalogue:
    """All items that ever live, by index.

    Attributes:
        places: number of places, `categories * items_per_category`.
        popularity: (places,) shares of attention; they sum to 1.
        shifts: the sudden shifts, at which fashion jumps.
    """

    def __init__(self, config: WorldConfig, *, seed: int, start: int) -> None:
        self._config, self._start, self._salt = config, start, np.uint64(seed % 2**64)
        self.shifts = Shifts(config, seed=seed, start=start)
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
        self._uniforms = rng.uniform(0, 1, config.categories)

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
        """Return the (categories,) appeal of each category at `ts` (ms): it drifts, and jumps at a shift."""
        angles = 2 * np.pi * (ts - self._start) / self._periods_ms + self._phases + self._jumps(ts)
        waves: Floats = np.sin(angles).sum(axis=1)
        drift: Floats = self._config.fashion * np.sqrt(2 / 3) * waves
        return drift

    def _jumps(self, ts: int) -> Floats:
        """(categories, 3) how far the waves are from where they would be without shifts: anywhere after a change."""
        changes = self.shifts.change_points_passed(ts, self._uniforms)
        waves = np.arange(3, dtype=np.uint64) + (np.arange(len(changes), dtype=np.uint64)[:, None] << np.uint64(8))
        keys = (changes.astype(np.uint64)[:, None] << np.uint64(40)) + waves
        jumps: Floats = 2 * np.pi * uniform(keys, self._salt ^ np.uint64(0xFA)) * (changes > 0)[:, None]
        return jumps

    def _normal(self, items: Ints, width: int, *, lane: int = 0) -> Floats:
        """(n, width) standard normal values by (seed, item, lane)."""
        lanes = np.arange(lane, lane + width, dtype=np.uint64)
        return normal((items.astype(np.uint64)[:, None] << np.uint64(8)) + lanes, self._salt)

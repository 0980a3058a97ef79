"""Sums over users: all that rates, effects and their variances need to know of an arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, sum and sum of outer products of vectors, one vector a user; leading axes are many samples at once.

    Attributes:
        count: (...) users.
        total: (..., k) sum of their vectors.
        outer: (..., k, k) sum of the vectors' outer products.
    """

    count: Floats
    total: Floats
    outer: Floats

    @classmethod
    def of(cls, values: Array) -> "Moments":
        """Return the moments of (..., users, k) vectors."""
        vectors = np.asarray(values, dtype=np.float64)
        count = np.full(vectors.shape[:-2], float(vectors.shape[-2]))
        # einsum, not @: so small a product is no work for BLAS threads, which spin on a busy machine.
        return cls(count, vectors.sum(axis=-2), np.einsum("...ui,...uj->...ij", vectors, vectors))

    @classmethod
    def of_observations(cls, users: Array, *columns: Array) -> "Moments":
        """Return the moments of (n,) columns after each has been summed within users, who are integers or strings."""
        distinct, groups = np.unique(users, return_inverse=True)
        sums = [np.bincount(groups, weights=column, minlength=len(distinct)) for column in columns]
        return cls.of(np.stack(sums, axis=-1))

    @classmethod
    def stack(cls, samples: Sequence["Moments"], size: int) -> "Moments":
        """Return (n,) samples of vectors of `size` as one, along a new first axis."""
        return cls(
            np.array([each.count for each in samples], dtype=np.float64),
            np.array([each.total for each in samples], dtype=np.float64).reshape(-1, size),
            np.array([each.outer for each in samples], dtype=np.float64).reshape(-1, size, size),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of the users of both."""
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Floats:
        """(..., k) mean a user; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: Floats = self.total / self.count[..., None]
        return mean

    @property
    def covariance(self) -> Floats:
        """(..., k, k) unbiased covariance between users; NaN where there are fewer than two."""
        with np.errstate(invalid="ignore", divide="ignore"):
            centred = self.outer - self.total[..., :, None] * self.mean[..., None, :]
            covariance: Floats = centred / np.where(self.count > 1, self.count - 1, np.nan)[..., None, None]
        return covariance

    def ratio(self, top: int, bottom: int) -> Floats:
        """(...) Σ top / Σ bottom; NaN where nothing is at the bottom."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio: Floats = self.total[..., top] / np.where(
                self.total[..., bottom] > 0, self.total[..., bottom], np.nan
            )
        return ratio

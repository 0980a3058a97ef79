"""Intervals for click rates and the lift between them, and percentiles.

A user's impressions are not independent of each other: users differ in how much they click. So rates are compared with
a variance over users, not over impressions; Wilson's interval is for a quick look, where users are not told apart.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Interval(NamedTuple):
    """An estimate with its confidence limits; all NaN where the data define none."""

    value: float
    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan, math.nan)


def wilson(successes: float, trials: float, *, level: float = 0.95) -> Interval:
    """Return the rate with Wilson's score interval (JASA 1927), which holds for few trials and extreme rates too."""
    if trials <= 0:
        return UNDEFINED
    z = _quantile(level)
    rate, square = successes / trials, z * z / trials
    centre = (rate + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))


def clustered_rate(users: Array, shown: Array, clicks: Array, *, level: float = 0.95) -> Interval:
    """Return Σclicks / Σshown with an interval whose variance is taken over users.

    The rate is a ratio of two sums over users; its variance is the delta method's (Deng, Knoblich and Lu, KDD 2018,
    sec. 3), with the normal distribution's quantile. With fewer than two users the limits are NaN.

    Args:
        users: (n,) whose observation each is; integers or strings.
        shown: (n,) items shown.
        clicks: (n,) items clicked.
        level: confidence.
    """
    rate, variance = _rate_and_variance(users, shown, clicks)
    half = _quantile(level) * math.sqrt(variance) if variance >= 0 else math.nan
    return Interval(rate, rate - half, rate + half)


def lift(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array], *, level: float = 0.95) -> Interval:
    """Return by how much, relatively, the click rate of `a` is above that of `b`: 0.1 is 10% more.

    Both are (users, shown, clicks) as in `clustered_rate`, of different users. The interval is symmetric in the
    logarithm of the ratio, so that it never goes below −1. It holds for one look at the end, not for looking until it
    pleases.
    """
    (rate_a, variance_a), (rate_b, variance_b) = _rate_and_variance(*a), _rate_and_variance(*b)
    if not (rate_a > 0 and rate_b > 0):
        return UNDEFINED
    ratio = rate_a / rate_b
    half = _quantile(level) * math.sqrt(variance_a / rate_a**2 + variance_b / rate_b**2)
    return Interval(ratio - 1, ratio * math.exp(-half) - 1, ratio * math.exp(half) - 1)


def percentiles(values: npt.ArrayLike, percents: tuple[float, ...] = (50, 99)) -> tuple[float, ...]:
    """Return the percentiles of `values`, linearly interpolated; NaN where there are none."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return (math.nan,) * len(percents)
    return tuple(np.percentile(array, percents).tolist())


def _rate_and_variance(users: Array, shown: Array, clicks: Array) -> tuple[float, float]:
    """The rate, and its variance over users; NaN where not defined."""
    total = float(np.sum(shown))
    if not total:
        return math.nan, math.nan
    rate = float(np.sum(clicks)) / total
    distinct, groups = np.unique(users, return_inverse=True)
    count = len(distinct)
    if count < 2:
        return rate, math.nan
    residuals = np.bincount(groups, weights=clicks - rate * shown)
    return rate, count / (count - 1) * float(np.sum(residuals**2)) / total**2


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)

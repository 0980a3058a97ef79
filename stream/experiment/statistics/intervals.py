"""Intervals for click rates, and percentiles.

A user's impressions are not independent of each other: users differ in how much they click. So a rate has a variance
over users, not over impressions; Wilson's interval is for a quick look, where users are not told apart.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.experiment.statistics.effect import Estimate, click_rate, log_rates
from stream.experiment.statistics.moments import Moments

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
    z = critical_value(level)
    rate, square = successes / trials, z * z / trials
    centre = (rate + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))


def clustered_rate(users: Array, shown: Array, clicks: Array, *, level: float = 0.95) -> Interval:
    """Return Σclicks / Σshown with an interval whose variance is taken over users.

    The variance is that of `effect.click_rate`, with the normal distribution's quantile. With fewer than two users
    the limits are NaN.

    Args:
        users: (n,) whose observation each is; integers or strings.
        shown: (n,) items shown.
        clicks: (n,) items clicked.
        level: confidence.
    """
    return normal_interval(click_rate(Moments.of_observations(users, shown, clicks)), level=level)


def normal_interval(estimate: Estimate, *, level: float = 0.95) -> Interval:
    """Return one estimate with the normal distribution's interval, which holds for a single look at the end."""
    # Rounding can leave the variance of users who are all alike a little below 0.
    value, half = float(estimate.value), critical_value(level) * float(np.sqrt(np.maximum(estimate.variance, 0.0)))
    return Interval(value, value - half, value + half)


def paired_lift(users: Array, a: tuple[Array, Array], b: tuple[Array, Array], *, level: float = 0.95) -> Interval:
    """Return by how much, relatively, the click rate of `a` is above that of `b`, where the same users had both.

    The variance is that of the difference of two logarithms over the users, their covariance included. So what the
    users have in common in both cancels. The interval is symmetric in the logarithm, so that it never goes below −1.

    Args:
        users: (n,) whose observation each is; integers or strings.
        a: (n,) items shown and (n,) items clicked under `a`.
        b: the same under `b`.
        level: confidence.
    """
    logs, covariance = log_rates(Moments.of_observations(users, *a, *b))
    value = float(logs[0] - logs[1])
    half = critical_value(level) * math.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    return Interval(math.expm1(value), math.expm1(value - half), math.expm1(value + half))


def percentiles(values: npt.ArrayLike, percents: tuple[float, ...] = (50, 99)) -> tuple[float, ...]:
    """Return the percentiles of `values`, linearly interpolated; NaN where there are none."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return (math.nan,) * len(percents)
    return tuple(np.percentile(array, percents).tolist())


def critical_value(level: float = 0.95) -> float:
    """Return the half-width of a two-sided normal interval in standard errors.

    >>> round(critical_value(), 2)
    1.96
    """
    return NormalDist().inv_cdf((1 + level) / 2)

"""Thompson sampling over arms: each gets the probability that it is the best as its share, and a floor.

The posterior of a click rate is normal with the rate and its variance over users (`effect.click_rate`), since items of
a user are not independent: a Beta posterior over items would be too sure. The share that draws from the posteriors
would come to (Thompson, Biometrika 1933) is computed, not drawn: so equal counts give equal shares.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from stream.experiment.statistics.effect import CLICKS, SHOWN, click_rate, effective_users
from stream.experiment.statistics.moments import Floats, Moments
from stream.experiment.verdict import MIN_CLICKS, MIN_USERS

_Z = np.linspace(-8, 8, 801)
_DENSITY = np.exp(-(_Z**2) / 2) / np.exp(-(_Z**2) / 2).sum()
_LEAST_VARIANCE = 1e-12


class BanditShares(NamedTuple):
    """Arm → its share; arm → the probability that its click rate is the highest."""

    shares: dict[str, float]
    best: dict[str, float]


def thompson_shares(arms: Mapping[str, Moments], *, floor: float) -> BanditShares | None:
    """Return the shares that follow from what users did; None while an arm has too few users or clicks to say.

    Args:
        arms: arm → moments of (shown, clicks) of its users, the first of each vector.
        floor: least share of an arm; times the arms it must be below 1.
    """
    for moments in arms.values():
        if effective_users(moments) < MIN_USERS or moments.total[CLICKS] < MIN_CLICKS:
            return None
    rates = [click_rate(moments) for moments in arms.values()]
    values = np.array([float(rate.value) for rate in rates])
    independent = values * (1 - values) / np.array([float(moments.total[SHOWN]) for moments in arms.values()])
    variances = np.maximum([float(rate.variance) for rate in rates], np.maximum(independent, _LEAST_VARIANCE))
    best = probability_best(values, variances)
    shares = floor + (1 - floor * len(arms)) * best
    return BanditShares(dict(zip(arms, shares.tolist(), strict=True)), dict(zip(arms, best.tolist(), strict=True)))


def probability_best(values: Floats, variances: Floats) -> Floats:
    """Return the (k,) probabilities that each of (k,) independent normal variables is the largest; they sum to 1."""
    deviations = np.sqrt(variances)
    points = values[:, None] + deviations[:, None] * _Z
    below = ndtr((points[:, None, :] - values[None, :, None]) / deviations[None, :, None])
    below[np.arange(len(values)), np.arange(len(values))] = 1.0
    best: Floats = np.einsum("kz,z->k", below.prod(axis=1), _DENSITY)
    total: Floats = best / best.sum()
    return total

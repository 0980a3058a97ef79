"""Sample size: how many users an experiment needs to find its minimum effect, from assumptions about them."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from stream.experiment.plan import ExperimentPlan, UserAssumptions
from stream.experiment.statistics.confidence_sequence import mixture_scale, radius
from stream.experiment.statistics.intervals import critical_value
from stream.experiment.verdict import pairwise_alpha


@dataclass(frozen=True, slots=True)
class SampleSize:
    """Users and impressions, of all arms together, to find the minimum effect with the wanted probability."""

    users: int
    impressions: int


def variance_per_user(users: UserAssumptions) -> float:
    """Return n times the variance of the logarithm of a click rate over n users.

    Items of a user are alike, so a user with m of them is worth m / (1 + (m − 1) · icc) independent ones. Users
    are taken to come equally often; the more that differs, the more users it takes.
    """
    items = users.slots * users.visits
    return (1 - users.rate) / users.rate * (1 + max(0.0, items - 1) * users.icc) / items


def sequential_variance(effect: float, *, scale: float, alpha: float, power: float) -> float:
    """Return the variance of the log ratio at which `effect` (a log ratio) has been found with probability `power`.

    It is an upper bound: a look before, or after, may have found it too.
    """
    margin = float(norm.ppf(power))

    def short(log_variance: float) -> float:
        variance = np.exp(log_variance)
        return float(radius(variance, scale, alpha) + margin * np.sqrt(variance) - effect)

    # From where the interval is far too wide, to where it is far too narrow to miss the effect.
    return float(np.exp(brentq(short, math.log(effect**2) - 20, math.log(effect**2) + 5)))


def fixed_sample_variance(effect: float, *, alpha: float, power: float) -> float:
    """Return the variance at which a test with one look at the end finds `effect` with probability `power`."""
    return float((effect / (critical_value(1 - alpha) + norm.ppf(power))) ** 2)


def required_sample_sizes(experiment: ExperimentPlan) -> tuple[SampleSize, SampleSize]:
    """Return what the any-time verdict needs at the latest, and what one look at the end would need.

    Both are for the two arms for which it takes longest, with alpha divided by the number of pairs. Interleaved
    arms are left out: they need fewer users, and how many depends on how often the two rankings differ.

    Raises:
        ValueError: when there are not two arms for A/B to compare.
    """
    if len(experiment.compared) < 2:
        raise ValueError("A/B compares two arms or more that have users")
    shares = [experiment.shares[arm.name] for arm in experiment.compared]
    effect = math.log1p(experiment.minimum_effect)
    alpha = pairwise_alpha(experiment.alpha, len(shares))
    scale = mixture_scale(effect, alpha)
    worst = max(1 / one + 1 / other for one, other in combinations(shares, 2))
    unit = variance_per_user(experiment.crowd) * worst
    variances = (
        sequential_variance(effect, scale=scale, alpha=alpha, power=experiment.power),
        fixed_sample_variance(effect, alpha=alpha, power=experiment.power),
    )
    users = [math.ceil(unit / variance) for variance in variances]
    first, second = (SampleSize(count, math.ceil(count * experiment.crowd.visits)) for count in users)
    return first, second

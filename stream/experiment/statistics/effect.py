"""Click rates and how far two arms are apart, with variances over users; with CUPED where there is a time before.

Vectors of users are (shown, clicks) or (shown, clicks, shown before, clicks before), *before* being the time before the
experiment. A rate is a ratio of two sums over users, so its variance is the delta method's (Deng, Knoblich and Lu,
KDD 2018, sec. 3): that of the mean of `(clicks − rate · shown) / mean shown`.
"""

from dataclasses import dataclass

import numpy as np

from stream.experiment.statistics.moments import Floats, Moments

SHOWN, CLICKS, SHOWN_BEFORE, CLICKS_BEFORE = range(4)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the variance of it; NaN where the data define none."""

    value: Floats
    variance: Floats


@dataclass(frozen=True, slots=True)
class Effect:
    """Two arms side by side.

    Attributes:
        first: click rate of the first arm, adjusted where CUPED is used.
        second: that of the second.
        difference: first − second.
        log_ratio: log(first / second), the scale on which lifts are compared.
    """

    first: Estimate
    second: Estimate
    difference: Estimate
    log_ratio: Estimate


def click_rate(arm: Moments) -> Estimate:
    """Return Σ clicks / Σ shown with its variance over users."""
    return _rate(arm, np.zeros(arm.count.shape), np.zeros_like(arm.total))


def compare(first: Moments, second: Moments, *, adjust: bool = True) -> Effect:
    """Return how far two arms of different users are apart.

    With `adjust`, and where the vectors have a time before, each rate is corrected by what the users of its arm did
    before: CUPED (Deng, Xu, Kohavi and Walker, WSDM 2013) on the linearised rate. The covariate of a user is
    `(clicks before − rate before · shown before) / mean shown before`, with rate and mean over both arms; it is 0 for
    a user who was not there. It is from before anybody was assigned, so it cannot bias the difference.
    """
    if adjust and first.total.shape[-1] > SHOWN_BEFORE:
        slope, covariate = _adjustment(first, second)
    else:
        slope, covariate = np.zeros(first.count.shape), np.zeros_like(first.total)
    one, other = _rate(first, slope, covariate), _rate(second, slope, covariate)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = Estimate(
            np.log(np.where(one.value > 0, one.value, np.nan) / np.where(other.value > 0, other.value, np.nan)),
            one.variance / one.value**2 + other.variance / other.value**2,
        )
    return Effect(one, other, Estimate(one.value - other.value, one.variance + other.variance), ratio)


def log_rates(arm: Moments) -> tuple[Floats, Floats]:
    """Return the (k,) logarithms of several click rates of the same users, and their (k, k) covariance over users.

    Args:
        arm: moments of vectors (shown, clicks) of the first rate, then of the second, and so on; one sample.
    """
    parts = len(arm.total) // 2
    shown, clicks = arm.total[0::2], arm.total[1::2]
    forms = np.zeros((parts, 2 * parts))
    with np.errstate(invalid="ignore", divide="ignore"):
        for part in range(parts):
            forms[part, 2 * part + 1] = arm.count / clicks[part] if clicks[part] else np.nan
            forms[part, 2 * part] = -arm.count / shown[part] if shown[part] else np.nan
        logs: Floats = np.log(np.where(clicks > 0, clicks, np.nan) / np.where(shown > 0, shown, np.nan))
        covariance: Floats = forms @ arm.covariance @ forms.T / arm.count
    return logs, covariance


def design_effect(arm: Moments) -> Floats:
    """Return how many times the variance over users is that of as many independent items; 1 when they are."""
    rate = click_rate(arm)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Floats = rate.variance * arm.total[..., SHOWN] / (rate.value * (1 - rate.value))
    return ratio


def effective_users(arm: Moments) -> Floats:
    """Return how many users who come equally often would weigh as evenly (Kish): far fewer, when a few do most."""
    squares = arm.outer[..., SHOWN, SHOWN]
    users: Floats = np.divide(arm.total[..., SHOWN] ** 2, squares, out=np.zeros_like(squares), where=squares > 0)
    return users


def _rate(arm: Moments, slope: Floats, covariate: Floats) -> Estimate:
    """The rate less slope times the arm's mean covariate, which is linear in the vectors: covariate · vector."""
    rate = arm.ratio(CLICKS, SHOWN)
    influence = _linear(arm, rate, arm.mean[..., SHOWN], CLICKS, SHOWN) - slope[..., None] * covariate
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = _quadratic(influence, arm.covariance, influence) / arm.count
    return Estimate(rate - slope * np.einsum("...i,...i", covariate, arm.mean), variance)


def _adjustment(first: Moments, second: Moments) -> tuple[Floats, Floats]:
    """The slope of the rate on the covariate within arms, and the covariate as a linear form; 0 without a time before.

    Minimises the variance of the difference: the arms' covariances are weighted by 1 / users.
    """
    both = first + second
    before = both.ratio(CLICKS_BEFORE, SHOWN_BEFORE)
    covariate = np.nan_to_num(_linear(both, before, both.mean[..., SHOWN_BEFORE], CLICKS_BEFORE, SHOWN_BEFORE))
    common, spread = np.zeros(first.count.shape), np.zeros(first.count.shape)
    for arm in (first, second):
        influence = _linear(arm, arm.ratio(CLICKS, SHOWN), arm.mean[..., SHOWN], CLICKS, SHOWN)
        with np.errstate(invalid="ignore", divide="ignore"):
            common = common + _quadratic(influence, arm.covariance, covariate) / arm.count
            spread = spread + _quadratic(covariate, arm.covariance, covariate) / arm.count
    slope = np.divide(common, spread, out=np.zeros_like(common), where=spread > 0)
    return np.nan_to_num(slope), covariate


def _linear(arm: Moments, rate: Floats, mean: Floats, top: int, bottom: int) -> Floats:
    """(..., k) the linear form (top − rate · bottom) / mean."""
    form = np.zeros_like(arm.total)
    with np.errstate(invalid="ignore", divide="ignore"):
        form[..., top], form[..., bottom] = 1 / mean, -rate / mean
    return form


def _quadratic(left: Floats, matrix: Floats, right: Floats) -> Floats:
    value: Floats = np.einsum("...i,...ij,...j->...", left, matrix, right)
    return value

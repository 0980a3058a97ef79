"""Always-valid intervals and p-values: they may be looked at any time, as often as one likes, and acted on at any look.

The method is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Annals of
Statistics 2024, arXiv 2103.06476, theorem 2.2), which is the mixture sequential test of Robbins (1970) and of Johari,
Koomen, Pekelis and Walsh (Operations Research 2022, "always valid inference") with an estimated variance. Under it, a
true value within the interval at all looks at once has probability 1 − alpha.

It is written here in terms of the variance V of the estimate, so that any estimate with a variance will do. What it
assumes: (1) enough users at the first look for the normal approximation; (2) users are independent of each other;
(3) an early and a late estimate have a covariance of at least the late one's variance. (3) holds when the late estimate
is the better one and the early one adds nothing to it: for users who come one after another, and for users who return
at steady rates. A larger covariance makes looks more alike, and the promise only safer (Slepian's inequality). The
simulations in `stream.bench.harness.ab_tests` check all three at once.

`scale` is the standard deviation of the effects that are expected. Any value is valid if it is chosen before the data;
a good one makes the interval narrow when it matters.
"""

import numpy as np
from scipy.special import lambertw

from stream.experiment.statistics.moments import Floats


def mixture_scale(effect: float, alpha: float) -> float:
    """Return the scale with which an `effect` is found with the least data: about the effect itself.

    The half-width of the interval at variance V is least, as a function of scale²/V = k, at k = −W₋₁(−alpha²/e) − 1,
    and is then √(V·(1 + k)). This picks the scale so that this is so when the half-width equals `effect`.

    >>> round(mixture_scale(0.1, 0.05), 4)
    0.0944
    """
    k = -float(lambertw(-(alpha**2) / np.e, -1).real) - 1
    return effect * float(np.sqrt(k / (1 + k)))


def radius(variance: Floats, scale: float | Floats, alpha: float) -> Floats:
    """Return half of the interval's width around an estimate of `variance`; NaN where that is NaN or 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = variance + np.square(scale)
        positive = np.where(variance > 0, variance, np.nan)
        width: Floats = np.sqrt(positive * total / np.square(scale) * (np.log(total / positive) - 2 * np.log(alpha)))
    return width


def p_value(estimate: Floats, variance: Floats, scale: float | Floats) -> Floats:
    """Return the p-value of "there is no effect"; 1 where unknown; at most alpha when the interval leaves 0 out."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        total = variance + np.square(scale)
        positive = np.where(variance > 0, variance, np.nan)
        log_evidence = (np.square(estimate) * np.square(scale) / (positive * total) - np.log(total / positive)) / 2
        p: Floats = np.exp(-np.maximum(log_evidence, 0.0))
    return np.where(np.isnan(p), 1.0, p)

"""Whether an effect is steady: novelty that wears off, or an arm that still learns, differs between parts of time."""

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc  # not scipy.stats: workers import this, and it takes them 0.4 s

from stream.experiment.statistics.effect import log_rates
from stream.experiment.statistics.moments import Moments


@dataclass(frozen=True, slots=True)
class Drift:
    """The lift in each part of the time, and the p-value of "it is the same in all", for one look."""

    lifts: tuple[float, ...]
    p: float


def drift(first: Moments, second: Moments) -> Drift:
    """Compare two arms in several parts of the time, such as `UserSums.thirds` or `UserSums.thirds_since_first_visit`.

    Args:
        first: moments of vectors (shown, clicks) of the first part, then of the next: k = 6 for thirds.
        second: those of the other arm.

    The parts share users, so the test (Wald, chi-square) uses the covariance between parts over users.
    """
    (log_first, within_first), (log_second, within_second) = log_rates(first), log_rates(second)
    logs, covariance = log_first - log_second, within_first + within_second
    lifts = tuple(np.expm1(logs).tolist())
    contrast = np.diff(np.eye(len(logs)), axis=0)
    apart, spread = contrast @ logs, contrast @ covariance @ contrast.T
    if not (np.all(np.isfinite(apart)) and np.all(np.isfinite(spread)) and np.linalg.matrix_rank(spread) == len(apart)):
        return Drift(lifts, float("nan"))
    statistic = float(apart @ np.linalg.solve(spread, apart))
    return Drift(lifts, float(chdtrc(len(apart), max(statistic, 0.0))))

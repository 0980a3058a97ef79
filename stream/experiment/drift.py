"""Whether an effect is steady: novelty that wears off, or an arm that still learns, differs between parts of time."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from stream.experiment.moments import Floats, Moments


@dataclass(frozen=True, slots=True)
class Drift:
    """The lift in each part of the time, and the p-value of "it is the same in all", for one look."""

    lifts: tuple[float, ...]
    p: float


def drift(first: Moments, second: Moments) -> Drift:
    """Compare two arms in several parts of the time, such as `UserSums.thirds` or `UserSums.own_thirds`.

    Args:
        first: moments of vectors (shown, clicks) of the first part, then of the next: k = 6 for thirds.
        second: those of the other arm.

    The parts share users, so the test (Wald, chi-square) uses the covariance between parts over users.
    """
    (log_first, within_first), (log_second, within_second) = _log_rates(first), _log_rates(second)
    logs, covariance = log_first - log_second, within_first + within_second
    lifts = tuple(np.expm1(logs).tolist())
    contrast = np.diff(np.eye(len(logs)), axis=0)
    apart, spread = contrast @ logs, contrast @ covariance @ contrast.T
    if not (np.all(np.isfinite(apart)) and np.all(np.isfinite(spread)) and np.linalg.matrix_rank(spread) == len(apart)):
        return Drift(lifts, float("nan"))
    return Drift(lifts, float(chi2.sf(apart @ np.linalg.solve(spread, apart), len(apart))))


def _log_rates(arm: Moments) -> tuple[Floats, Floats]:
    """Logarithms of the rates of the parts, and their covariance over users."""
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

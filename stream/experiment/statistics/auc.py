"""AUC with an interval over users, and the difference of two AUCs of the same samples.

Each sample's placement is the share of the other class that it is rightly ranked against (DeLong et al., Biometrics
1988). An AUC moves with a user's samples as the sum of their placements' deviations does; the variance of these sums
over users allows for a user's samples being alike (Obuchowski, Biometrics 1997).
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from stream.experiment.statistics.intervals import UNDEFINED, Interval, critical_value

Array = npt.NDArray[Any]


def clustered_auc(labels: Array, scores: Array, users: Array, *, level: float = 0.95) -> Interval:
    """Return the AUC with an interval over users; undefined where the labels are of one class.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) whatever ranks them.
        users: (n,) integers from 0, whose sample each is.
        level: confidence.
    """
    value, influence = _influence(labels, scores, users)
    return _interval(value, influence, users, level)


def auc_difference(labels: Array, first: Array, second: Array, users: Array, *, level: float = 0.95) -> Interval:
    """Return the AUC of `first` less that of `second` on the same samples, with an interval over users."""
    value, influence = _influence(labels, first, users)
    other, other_influence = _influence(labels, second, users)
    return _interval(value - other, influence - other_influence, users, level)


def _influence(labels: Array, scores: Array, users: Array) -> tuple[float, Array]:
    """The AUC, and of each user by how much their samples move it; they sum to 0."""
    positive = labels > 0.5
    ranks = rankdata(scores)
    above = ranks[positive] - rankdata(scores[positive])
    below = positive.sum() - (ranks[~positive] - rankdata(scores[~positive]))
    clicks, others = len(above), len(below)
    if not clicks or not others:
        return math.nan, np.zeros(1)
    value = float(above.sum()) / (clicks * others)
    deviations = np.empty(len(labels))
    deviations[positive] = (above / others - value) / clicks
    deviations[~positive] = (below / clicks - value) / others
    return value, np.bincount(users, weights=deviations)


def _interval(value: float, influence: Array, users: Array, level: float) -> Interval:
    count = len(np.unique(users))
    if math.isnan(value) or count < 2:
        return UNDEFINED
    half = critical_value(level) * math.sqrt(float((influence**2).sum()) * count / (count - 1))
    return Interval(value, value - half, value + half)

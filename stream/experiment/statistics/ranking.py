"""Standard errors over users of AUC, GAUC and log loss, and of their differences between rankers.

A user's samples are no independent draws, users are. Each metric is written as a sum over users of the influence that a
user has on it, in first order; the variance of that sum is the metric's. For AUC: Obuchowski, Biometrics 1997, which is
DeLong et al., Biometrics 1988, for clustered data. Influences of two rankers on the same samples can be subtracted:
their difference has a far smaller error than either.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model import metrics

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """A metric, and (U,) influences of the users on it, in one order for all rankers."""

    value: float
    influences: Floats

    @property
    def error(self) -> float:
        """Standard error over users; 0 for a single one."""
        users = len(self.influences)
        return float(np.sqrt((self.influences**2).sum() * users / max(users - 1, 1)))

    def minus(self, other: "Judged") -> "Judged":
        """Return the difference of two rankers' metrics on the same samples."""
        return Judged(self.value - other.value, self.influences - other.influences)


def judge(labels: Floats, predictions: Floats, users: npt.NDArray[np.int64]) -> dict[str, Judged]:
    """Return AUC, GAUC and NE of (n,) predictions for (n,) labels 0 or 1 of the users 0 … U−1.

    Raises:
        ValueError: when the labels are all alike.
    """
    if not 0 < labels.sum() < len(labels):
        raise ValueError("labels of one class only: there is nothing to rank")
    return {
        "AUC": _auc(labels, predictions, users),
        "GAUC": _gauc(labels, predictions, users),
        "NE": _normalised_entropy(labels, predictions, users),
    }


def _auc(labels: Floats, predictions: Floats, users: npt.NDArray[np.int64]) -> Judged:
    positive = labels > 0.5
    ranked = np.sort(predictions[~positive]), np.sort(predictions[positive])
    others = ranked[0]
    below = (np.searchsorted(others, predictions, "left") + np.searchsorted(others, predictions, "right")) / 2
    above = (
        len(ranked[1])
        - (np.searchsorted(ranked[1], predictions, "left") + np.searchsorted(ranked[1], predictions, "right")) / 2
    )
    # How often a positive wins, and how often a negative loses.
    placements = np.where(positive, below / len(others), above / len(ranked[1]))
    value = float(placements[positive].mean())
    shares = (placements - value) / np.where(positive, positive.sum(), (~positive).sum())
    return Judged(value, _summed(shares, users))


def _gauc(labels: Floats, predictions: Floats, users: npt.NDArray[np.int64]) -> Judged:
    order = np.argsort(users, kind="stable")
    ends = np.cumsum(np.bincount(users))
    areas = [metrics.auc(labels[own], predictions[own]) for own in np.split(order, ends[:-1])]
    each, weights = np.array(areas), np.bincount(users).astype(np.float64)
    weights[np.isnan(each)] = 0.0
    each = np.nan_to_num(each)
    value = float((each * weights).sum() / weights.sum()) if weights.any() else float("nan")
    return Judged(value, weights * (each - value) / max(weights.sum(), 1.0))


def _normalised_entropy(labels: Floats, predictions: Floats, users: npt.NDArray[np.int64]) -> Judged:
    """The entropy of the mean label is taken as given."""
    losses = metrics.log_losses(labels, predictions)
    rate = float(labels.mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    value = float(losses.mean() / entropy)
    return Judged(value, _summed((losses / entropy - value) / len(losses), users))


def _summed(influences: Floats, users: npt.NDArray[np.int64]) -> Floats:
    summed: Floats = np.bincount(users, influences).astype(np.float64)
    return summed

"""Metrics of click probabilities: exact over arrays, and progressive over a stream in constant memory.

Labels are 0 or 1; over a stream `LATE_CLICK` as well. A metric that the data do not define (no sample, or labels of
one class) is NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from model.example import LATE_CLICK

Floats = npt.NDArray[np.floating[Any]]

BINS = 2**14
"""Bins of the streaming AUC, equally wide in the logit: rare clicks are resolved as finely as common ones."""

_CLIP = 1e-7
_LOGIT_LIMIT = 16.2  # a little more than the logit of 1 − _CLIP


def log_losses(labels: Floats, predictions: Floats) -> npt.NDArray[np.float64]:
    """Return the (n,) −(y log p + (1 − y) log(1 − p)) in nats; p is kept within [1e-7, 1 − 1e-7]."""
    p = np.clip(predictions.astype(np.float64), _CLIP, 1 - _CLIP)
    losses: npt.NDArray[np.float64] = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    return losses


def log_loss(labels: Floats, predictions: Floats) -> float:
    """Return the mean of `log_losses`."""
    return float(log_losses(labels, predictions).mean()) if len(labels) else float("nan")


def normalised_entropy(labels: Floats, predictions: Floats) -> float:
    """Return the log loss over the entropy of the same samples' mean label (He et al., ADKDD 2014, sec. 2).

    Below 1 is better than always predicting the mean.
    """
    return _over_entropy(log_loss(labels, predictions), float(labels.mean()) if len(labels) else 0.0)


def calibration(labels: Floats, predictions: Floats) -> float:
    """Return Σp / Σy: predicted over observed clicks, 1 at best."""
    clicks = float(labels.sum(dtype=np.float64))
    return float(predictions.sum(dtype=np.float64)) / clicks if clicks else float("nan")


def auc(labels: Floats, predictions: Floats) -> float:
    """Return the probability that a positive is ranked above a negative, ties counting half."""
    return float(_group_auc(labels, predictions, np.zeros(len(labels), np.int64), 1)[0][0])


def gauc(labels: Floats, predictions: Floats, users: npt.NDArray[Any]) -> float:
    """Return the mean AUC within users, weighted by their number of samples (Zhu et al., KDD 2018, sec. 4.3).

    Users with labels of one class only have no AUC and no weight.

    Args:
        labels: (n,) labels.
        predictions: (n,) probabilities, or any scores.
        users: (n,) whose sample each is; integers or strings.
    """
    distinct, groups = np.unique(users, return_inverse=True)
    per_user, counts = _group_auc(labels, predictions, groups, max(len(distinct), 1))
    defined = ~np.isnan(per_user)
    if not defined.any():
        return float("nan")
    return float(np.average(per_user[defined], weights=counts[defined]))


class Metrics(Struct, frozen=True, kw_only=True):
    """The metrics of some samples; `invalid` counts predictions that were no numbers and entered none."""

    samples: int
    positives: int
    invalid: int
    log_loss: float
    ne: float
    auc: float
    calibration: float


class ProgressiveMetrics:
    """Metrics of a stream in which every sample is predicted before it is learned (Gama et al., 2013).

    All since the start, and of the last `window` samples or so: a window closes with the call that fills it,
    and the next one begins. AUC is taken from histograms of the logit with half credit within a bin.

    A late click is no further sample: it moves one from the unclicked to the clicked. What was predicted for it at
    first is not kept, so log loss and AUC move by what is predicted now, before the click is learned.
    """

    def __init__(self, *, window: int = 10_000) -> None:
        self._window = window
        self._total = _Tally()
        self._open = _Tally()
        self._closed = _Tally()

    def add(self, labels: Floats, predictions: Floats) -> None:
        """Count (n,) labels and the (n,) probabilities that were predicted for them."""
        self._total.add(labels, predictions)
        self._open.add(labels, predictions)
        if self._open.samples >= self._window:
            self._closed, self._open = self._open, _Tally()

    def total(self) -> Metrics:
        """Return the metrics of all samples so far."""
        return self._total.metrics()

    def last_window(self) -> Metrics:
        """Return the metrics of the newest full window, or of the open one while none is full."""
        return (self._closed if self._closed.samples else self._open).metrics()

    def to_dict(self) -> dict[str, Any]:
        """Return the whole state as plain values."""
        tallies = {"total": self._total, "open": self._open, "closed": self._closed}
        return {"window": self._window, **{name: tally.to_dict() for name, tally in tallies.items()}}

    @classmethod
    def merged(cls, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return what `to_dict` would of one accumulator, from those of several that each saw a part of the samples.

        Windows close at a place of their own in each, so those that are put together are of about the same time.
        """
        first, *others = map(cls.from_dict, states)
        for other in others:
            first._total.take(other._total)
            first._open.take(other._open)
            first._closed.take(other._closed)
        return first.to_dict()

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "ProgressiveMetrics":
        """Return the accumulator that `to_dict` described."""
        progressive = cls(window=state["window"])
        progressive._total = _Tally.from_dict(state["total"])
        progressive._open = _Tally.from_dict(state["open"])
        progressive._closed = _Tally.from_dict(state["closed"])
        return progressive


class _Tally:
    """Sums and histograms from which the metrics follow."""

    def __init__(self) -> None:
        self.samples = 0
        self.invalid = 0
        self.loss = 0.0
        self.predicted = 0.0
        self.histogram = np.zeros((2, BINS), np.int64)

    def add(self, labels: Floats, predictions: Floats) -> None:
        valid = np.isfinite(predictions)
        self.invalid += int(len(valid) - valid.sum())
        labels, predictions = labels[valid], predictions[valid].astype(np.float64)
        late = labels == LATE_CLICK
        if late.any():
            self._move(predictions[late])
            labels, predictions = labels[~late], predictions[~late]
        self.samples += len(labels)
        self.loss += float(log_losses(labels, predictions).sum())
        self.predicted += float(predictions.sum())
        np.add.at(self.histogram, ((labels > 0.5).astype(np.int64), _bins(predictions)), 1)

    def take(self, other: "_Tally") -> None:
        self.samples += other.samples
        self.invalid += other.invalid
        self.loss += other.loss
        self.predicted += other.predicted
        self.histogram += other.histogram

    def _move(self, predictions: Floats) -> None:
        """Make unclicked samples clicked ones."""
        ones, bins = np.ones(len(predictions)), _bins(predictions)
        self.loss += float((log_losses(ones, predictions) - log_losses(1 - ones, predictions)).sum())
        np.add.at(self.histogram[1], bins, 1)
        np.subtract.at(self.histogram[0], bins, 1)

    def metrics(self) -> Metrics:
        negatives, positives = self.histogram
        below = np.cumsum(negatives) - negatives
        wins = float((positives * (below + negatives / 2)).sum())
        clicks, others = int(positives.sum()), int(negatives.sum())
        loss = self.loss / self.samples if self.samples else float("nan")
        return Metrics(
            samples=self.samples,
            positives=clicks,
            invalid=self.invalid,
            log_loss=loss,
            ne=_over_entropy(loss, clicks / self.samples if self.samples else 0.0),
            auc=wins / (clicks * others) if clicks and others else float("nan"),
            calibration=self.predicted / clicks if clicks else float("nan"),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "invalid": self.invalid,
            "loss": self.loss,
            "predicted": self.predicted,
            "negatives": self.histogram[0].tolist(),
            "positives": self.histogram[1].tolist(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "_Tally":
        tally = cls()
        tally.samples, tally.invalid = state["samples"], state["invalid"]
        tally.loss, tally.predicted = state["loss"], state["predicted"]
        tally.histogram = np.array([state["negatives"], state["positives"]], np.int64)
        return tally


def _bins(predictions: Floats) -> npt.NDArray[np.int64]:
    """Return the (n,) bin of each probability in the histograms."""
    clipped = np.clip(predictions, _CLIP, 1 - _CLIP)
    place = (np.log(clipped / (1 - clipped)) + _LOGIT_LIMIT) / (2 * _LOGIT_LIMIT)
    bins: npt.NDArray[np.int64] = (place * BINS).astype(np.int64)
    return bins


def _over_entropy(loss: float, rate: float) -> float:
    if not 0 < rate < 1:
        return float("nan")
    return loss / float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def _group_auc(
    labels: Floats, predictions: Floats, groups: npt.NDArray[np.int64], n: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return (n,) the AUC within each group 0 … n−1, NaN where it is undefined, and (n,) the groups' sizes.

    AUC = (Σ ranks of the positives − n₊(n₊ + 1)/2) / (n₊ n₋), with the mean rank where predictions are equal.
    """
    order = np.lexsort((predictions, groups))
    labels, predictions, groups = labels[order], predictions[order], groups[order]
    sizes = np.bincount(groups, minlength=n)
    positives = np.bincount(groups, weights=labels, minlength=n)
    # A run is a stretch of one group with equal predictions; its members share the middle of its ranks.
    starts = np.ones(len(labels), np.bool_)
    starts[1:] = (groups[1:] != groups[:-1]) | (predictions[1:] != predictions[:-1])
    first = np.flatnonzero(starts)
    lengths = np.diff(np.append(first, len(labels)))
    ranks = np.repeat(first + (lengths + 1) / 2, lengths) - (np.cumsum(sizes) - sizes)[groups]
    sums = np.bincount(groups, weights=ranks * labels, minlength=n)
    pairs = positives * (sizes - positives)
    with np.errstate(divide="ignore", invalid="ignore"):
        areas = (sums - positives * (positives + 1) / 2) / pairs
    areas[pairs == 0] = np.nan
    return areas, sizes

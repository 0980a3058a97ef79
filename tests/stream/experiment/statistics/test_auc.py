"""AUC over users: the right value, and intervals that are as wide as resampling users says."""

import numpy as np
import pytest

from model.metrics import auc
from stream.experiment.statistics.auc import auc_difference, clustered_auc


def users_with_ways(seed: int, count: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users who click more or less, of whom the scores know it more or less: their samples are alike."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(count), rng.integers(1, 40, count))
    own = rng.normal(size=count)[users]
    labels = (rng.random(len(users)) < 1 / (1 + np.exp(1 - own))).astype(np.float64)
    good = np.round(own + rng.normal(size=len(users)), 1)
    return labels, good, np.round(good + rng.normal(size=len(users)), 1), users


def resampled(seed: int, draws: int = 300) -> tuple[float, float]:
    """Standard deviations of an AUC and of a difference of two when users are drawn with replacement."""
    labels, good, bad, users = users_with_ways(seed)
    rng, rows = np.random.default_rng(9), [np.flatnonzero(users == user) for user in range(users.max() + 1)]
    values = []
    for _ in range(draws):
        drawn = np.concatenate([rows[user] for user in rng.integers(len(rows), size=len(rows))])
        values.append((auc(labels[drawn], good[drawn]), auc(labels[drawn], bad[drawn])))
    first, second = np.array(values).T
    return float(first.std()), float((first - second).std())


def test_value_and_interval() -> None:
    labels, good, bad, users = users_with_ways(1)
    interval, apart = clustered_auc(labels, good, users), auc_difference(labels, good, bad, users)
    assert interval.value == pytest.approx(auc(labels, good))
    assert apart.value == pytest.approx(auc(labels, good) - auc(labels, bad))
    one, two = resampled(1)
    assert (interval.high - interval.low) / 2 / 1.96 == pytest.approx(one, rel=0.15)
    assert (apart.high - apart.low) / 2 / 1.96 == pytest.approx(two, rel=0.15)


def test_two_that_are_alike_differ_by_nothing_for_sure() -> None:
    labels, good, _, users = users_with_ways(2)
    assert auc_difference(labels, good, good, users) == (0, 0, 0)


def test_one_class_has_no_auc() -> None:
    assert np.isnan(clustered_auc(np.ones(4), np.arange(4), np.arange(4))).all()

"""Rates, effects and CUPED against other ways to the same numbers, and against simulation."""

import numpy as np
import pytest

from stream.bench.harness.ab_tests import ABTests
from stream.experiment.statistics.drift import drift
from stream.experiment.statistics.effect import click_rate, compare, design_effect
from stream.experiment.statistics.moments import Moments


def crowd(rng: np.random.Generator, users: int = 300, lift: float = 0.0) -> np.ndarray:
    """(users, 4): shown, clicks, shown before, clicks before of users who differ in how much they click."""
    own = rng.beta(3, 27, users)
    shown, before = 10 * rng.poisson(12, users), 10 * rng.poisson(12, users)
    return np.stack([shown, rng.binomial(shown, own * (1 + lift)), before, rng.binomial(before, own)], axis=1)


def test_variance_of_a_rate_agrees_with_the_bootstrap_over_users() -> None:
    rng = np.random.default_rng(0)
    users = crowd(rng)
    drawn = users[rng.integers(len(users), size=(4000, len(users)))]
    bootstrap = np.std(drawn[..., 1].sum(axis=1) / drawn[..., 0].sum(axis=1))
    assert np.sqrt(click_rate(Moments.of(users)).variance) == pytest.approx(bootstrap, rel=0.05)


def test_effect_is_difference_and_ratio_with_the_sum_of_variances() -> None:
    rng = np.random.default_rng(1)
    one, other = Moments.of(crowd(rng)), Moments.of(crowd(rng))
    effect = compare(one, other, adjust=False)
    first, second = click_rate(one), click_rate(other)
    assert effect.difference.value == first.value - second.value
    assert effect.difference.variance == pytest.approx(first.variance + second.variance)
    assert np.exp(effect.log_ratio.value) == pytest.approx(first.value / second.value)
    back = compare(other, one, adjust=False)
    assert back.difference.value == -effect.difference.value
    assert back.log_ratio.variance == pytest.approx(effect.log_ratio.variance)


def test_cuped_is_regression_on_the_linearised_time_before() -> None:
    rng = np.random.default_rng(2)
    one, other = crowd(rng, lift=0.1), crowd(rng)
    effect = compare(Moments.of(one), Moments.of(other))
    both = np.concatenate([one, other])
    before = both[:, 3].sum() / both[:, 2].sum()
    x = [(arm[:, 3] - before * arm[:, 2]) / both[:, 2].mean() for arm in (one, other)]
    z = [(arm[:, 1] - arm[:, 1].sum() / arm[:, 0].sum() * arm[:, 0]) / arm[:, 0].mean() for arm in (one, other)]
    covariances = [np.cov(z[arm], x[arm]) for arm in (0, 1)]
    slope = sum(c[0, 1] for c in covariances) / sum(c[1, 1] for c in covariances)
    plain = one[:, 1].sum() / one[:, 0].sum() - other[:, 1].sum() / other[:, 0].sum()
    assert effect.difference.value == pytest.approx(plain - slope * (x[0].mean() - x[1].mean()))
    variance = sum(np.var(z[arm] - slope * x[arm], ddof=1) / len(z[arm]) for arm in (0, 1))
    assert effect.difference.variance == pytest.approx(variance)


def test_cuped_cuts_variance_where_the_past_tells_something_and_stays_true() -> None:
    lift, worlds = (
        0.2,
        ABTests(worlds=300, looks=1, every=8000, pre_impressions=8000, icc=0.05, activity_sd=0.3, lift=0.2),
    )
    arms = worlds.draw(3)
    with_past, without = compare(*arms), compare(*arms, adjust=False)
    saved = 1 - with_past.difference.variance / without.difference.variance
    assert saved.mean() > 0.4, "variance that CUPED says it saved"
    assert with_past.difference.value.var() < 0.7 * without.difference.value.var(), "and has saved"
    covered = np.abs(with_past.log_ratio.value - np.log1p(lift)) < 1.96 * np.sqrt(with_past.log_ratio.variance)
    assert 0.91 < covered.mean() < 0.985


def test_cuped_changes_nothing_without_a_past_or_where_it_tells_nothing() -> None:
    rng = np.random.default_rng(4)
    one, other = crowd(rng), crowd(rng)
    one[:, 2:] = other[:, 2:] = 0
    effect, plain = (compare(Moments.of(one), Moments.of(other), adjust=adjust) for adjust in (True, False))
    assert effect.difference.value == plain.difference.value
    assert effect.difference.variance == pytest.approx(plain.difference.variance)
    apart = ABTests(worlds=100, looks=1, every=8000, pre_impressions=8000, icc=0.0).draw(5)
    ratio = compare(*apart).difference.variance / compare(*apart, adjust=False).difference.variance
    assert ratio.mean() > 0.97


def test_design_effect_says_how_alike_items_of_a_user_are() -> None:
    (alike, _), (apart, _) = (
        ABTests(worlds=50, looks=1, every=4000, icc=icc, activity_sd=0.0).draw(6) for icc in (0.05, 0.0)
    )
    assert design_effect(alike).mean() == pytest.approx(1 + 99 * 0.05, rel=0.1)
    assert design_effect(apart).mean() == pytest.approx(1, abs=0.05)


def thirds(rng: np.random.Generator, lifts: tuple[float, float, float], users: int = 400) -> Moments:
    own = rng.beta(3, 27, users)
    columns = []
    for lift in lifts:
        shown = 10 * rng.poisson(4, users)
        columns += [shown, rng.binomial(shown, own * (1 + lift))]
    return Moments.of(np.stack(columns, axis=1))


@pytest.mark.long
def test_drift_is_found_where_an_effect_wears_off_and_rarely_where_it_is_steady() -> None:
    rng = np.random.default_rng(7)
    steady = [drift(thirds(rng, (0.2, 0.2, 0.2)), thirds(rng, (0, 0, 0))).p for _ in range(300)]
    novelty = [drift(thirds(rng, (0.6, 0.3, 0.0)), thirds(rng, (0, 0, 0))) for _ in range(50)]
    assert 0.02 < np.mean(np.array(steady) <= 0.05) < 0.09
    assert np.mean([found.p <= 0.01 for found in novelty]) > 0.9
    assert np.mean([found.lifts for found in novelty], axis=0) == pytest.approx([0.6, 0.3, 0.0], abs=0.05)


def test_drift_of_too_little_is_unknown() -> None:
    few = Moments.of(np.array([[10, 1, 0, 0, 10, 1], [10, 2, 0, 0, 10, 3]]))
    assert np.isnan(drift(few, few).p)

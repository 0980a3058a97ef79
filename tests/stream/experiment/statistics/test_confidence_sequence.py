"""Any-time inference: the formula against its source, and what it promises against simulation."""

from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from stream.bench.harness.ab_tests import ABTests
from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value, radius
from stream.experiment.statistics.effect import CLICKS, SHOWN, Effect, compare
from stream.experiment.statistics.moments import Array, Moments
from stream.experiment.statistics.sample_ratio import CONCENTRATION, srm_p_value
from stream.experiment.verdict import has_enough_data

ALPHA = 0.05
SPREAD = mixture_scale(np.log1p(0.1), ALPHA)


def test_half_width_is_the_sources_for_a_mean_of_independent_values() -> None:
    """Theorem 2.2 of arXiv 2103.06476: n values of standard deviation sigma, parameter rho."""
    n, sigma, rho = np.array([10.0, 100, 10_000]), 0.7, 0.2
    source = sigma * np.sqrt(2 * (n * rho**2 + 1) / (n**2 * rho**2) * np.log(np.sqrt(n * rho**2 + 1) / ALPHA))
    np.testing.assert_allclose(radius(sigma**2 / n, rho * sigma, ALPHA), source)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.2])
def test_spread_finds_an_effect_with_the_least_data(alpha: float) -> None:
    def variance_that_finds(spread: float) -> float:
        grid = np.geomspace(1e-5, 1e-1, 40_000)
        return float(grid[radius(grid, spread, alpha) <= 0.1].max())

    best = minimize_scalar(lambda spread: -variance_that_finds(spread), bounds=(0.03, 0.4), method="bounded")
    assert mixture_scale(0.1, alpha) == pytest.approx(best.x, rel=0.05)


def test_p_is_alpha_where_the_interval_ends_at_zero() -> None:
    variance = np.geomspace(1e-6, 1, 50)
    edge = radius(variance, SPREAD, ALPHA)
    np.testing.assert_allclose(p_value(edge, variance, SPREAD), ALPHA)
    assert np.all(p_value(edge * 1.01, variance, SPREAD) < ALPHA)
    assert p_value(np.array(0.1), np.array(np.nan), SPREAD) == 1
    assert p_value(np.array(0.0), np.array(0.0), SPREAD) == 1


@cache
def drawn(worlds: ABTests) -> tuple[Moments, Moments]:
    """Several tests look at the same worlds."""
    return worlds.draw(0)


def found(effect: Effect, arms: tuple[Moments, Moments], spread: float = SPREAD) -> Array:
    """(worlds, looks): where a winner would be named."""
    ready = has_enough_data(arms[0]) & has_enough_data(arms[1])
    return ready & (p_value(effect.log_ratio.value, effect.log_ratio.variance, spread) <= ALPHA)


def naive(arms: tuple[Moments, Moments]) -> Array:
    """(worlds, looks): where two proportions of items differ, as if all items were independent."""
    (shown, clicks), (other, others) = ((arm.total[..., SHOWN], arm.total[..., CLICKS]) for arm in arms)
    rate = (clicks + others) / (shown + other)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (clicks / shown - others / other) / np.sqrt(rate * (1 - rate) * (1 / shown + 1 / other))
    differ: Array = 2 * norm.sf(np.abs(z)) <= ALPHA
    return differ


@pytest.mark.long
@pytest.mark.parametrize(
    ("worlds", "expected"),
    [
        (ABTests(), 0.1),
        (ABTests(staggered_entry=True), 0.1),
        (ABTests(icc=0.002), 0.3),
        (ABTests(activity_sd=2.0, staggered_entry=True), 0.5),
    ],
    ids=["returning", "staggered entry", "low icc", "a few come most"],
)
def test_a_against_a_finds_nothing_however_often_it_is_looked_at(worlds: ABTests, expected: float) -> None:
    """200 worlds, 100 looks, one every 100 impressions."""
    arms = drawn(worlds)
    ours = found(compare(*arms), arms, mixture_scale(np.log1p(expected), ALPHA))
    assert ours.any(axis=1).mean() <= ALPHA


@pytest.mark.slow
def test_tests_over_items_find_something_between_a_and_a() -> None:
    plain = naive(drawn(ABTests()))
    assert plain.any(axis=1).mean() > 0.5, "naive, looked at every 100 impressions"
    assert plain[:, -1].mean() > 0.2, "naive, looked at once: a user's impressions are not independent"


def test_the_variance_over_users_holds_at_one_look_and_not_when_peeking() -> None:
    effect = compare(*drawn(ABTests()))
    z = np.abs(effect.log_ratio.value) / np.sqrt(effect.log_ratio.variance)
    assert (z[:, -1] > 1.96).mean() < 0.10
    assert (z[:, 10:] > 1.96).any(axis=1).mean() > 0.15


@pytest.mark.slow
def test_the_interval_holds_the_true_lift_at_all_looks_with_cuped() -> None:
    lift = 0.3
    arms = ABTests(worlds=200, looks=60, every=200, lift=lift, pre_impressions=5000).draw(1)
    effect = compare(*arms)
    half = radius(effect.log_ratio.variance, SPREAD, ALPHA)
    outside = np.abs(effect.log_ratio.value - np.log1p(lift)) > half
    assert outside[:, 3:].any(axis=1).mean() <= ALPHA
    assert found(effect, arms).any(axis=1).mean() > 0.95, "and so large a lift is found"


@pytest.mark.slow
@pytest.mark.parametrize("icc", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("users", [150, 1000])
@pytest.mark.parametrize("effect", [0.02, 0.1, 0.5])
def test_a_against_a_in_many_kinds_of_worlds(icc: float, users: int, effect: float) -> None:
    arms = ABTests(worlds=400, users=users, looks=100, every=100, icc=icc, activity_sd=1.0, pre_impressions=3000).draw(
        2
    )
    ours = found(compare(*arms), arms, mixture_scale(np.log1p(effect), ALPHA))
    assert ours.any(axis=1).mean() <= ALPHA


def test_mismatch_of_52_to_48_among_ten_thousand_is_caught() -> None:
    assert srm_p_value([5200, 4800], [1, 1]) < 0.01
    assert srm_p_value([5050, 4950], [1, 1]) > 0.5
    assert srm_p_value([9010, 990], [9, 1]) > 0.5
    assert srm_p_value([9200, 800], [9, 1]) < 1e-6
    assert srm_p_value([10, 0, 10], [1, 0, 1]) > 0.5
    assert srm_p_value([10, 1, 10], [1, 0, 1]) == 0


def test_mismatch_is_a_likelihood_ratio() -> None:
    """Against the product of predictive probabilities, user by user (Lindon and Malek, sec. 2)."""
    rng = np.random.default_rng(0)
    shares, counts, factor = np.array([0.5, 0.3, 0.2]), np.zeros(3), 1.0
    for arm in rng.choice(3, size=300, p=[0.7, 0.2, 0.1]):
        factor *= (CONCENTRATION * shares[arm] + counts[arm]) / (CONCENTRATION + counts.sum()) / shares[arm]
        counts[arm] += 1
    assert srm_p_value(counts.astype(int).tolist(), shares.tolist()) == pytest.approx(1 / factor)


@pytest.mark.long
def test_mismatch_is_rarely_found_where_there_is_none_and_mostly_where_there_is() -> None:
    rng = np.random.default_rng(1)

    def ever(share: float, worlds: int = 200) -> float:
        first = rng.random((worlds, 10_000)) < share
        counts = np.cumsum(first, axis=1)[:, 99::100]
        totals = np.arange(100, 10_001, 100)
        return float(
            np.mean(
                [
                    any(srm_p_value([one, all_ - one], [1, 1]) <= 0.01 for one, all_ in zip(row, totals, strict=True))
                    for row in counts.tolist()
                ]
            )
        )

    assert ever(0.5) <= 0.02
    assert ever(0.52) > 0.55

"""Intervals against published values, and against simulation of what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.experiment.statistics.intervals import clustered_rate, paired_lift, percentiles, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_values(successes: int, trials: int, low: float, high: float) -> None:
    interval = wilson(successes, trials)
    assert interval.value == successes / trials
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(trials=st.integers(1, 10_000), share=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilson_holds_the_rate_and_mirrors(trials: int, share: float, level: float) -> None:
    successes = round(share * trials)
    rate, low, high = wilson(successes, trials, level=level)
    assert 0 <= low <= rate + 1e-12
    assert rate - 1e-12 <= high <= 1
    mirrored = wilson(trials - successes, trials, level=level)
    assert mirrored.low == pytest.approx(1 - high, abs=1e-9)


def test_no_trials_tell_nothing() -> None:
    assert all(math.isnan(value) for value in wilson(0, 0))
    empty = np.array([], dtype=np.int64)
    assert all(math.isnan(value) for value in clustered_rate(empty, empty, empty))


def test_one_observation_a_user_gives_the_binomial_interval() -> None:
    clicks = np.array([1] * 30 + [0] * 70)
    rate, low, high = clustered_rate(np.arange(100), np.ones(100), clicks)
    half = 1.959964 * math.sqrt(0.3 * 0.7 / 99)
    assert (rate, low, high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))


def test_one_user_has_a_rate_and_no_interval() -> None:
    rate, low, high = clustered_rate(np.array([7, 7]), np.array([10, 10]), np.array([1, 3]))
    assert rate == 0.2
    assert math.isnan(low)
    assert math.isnan(high)


def crowd(rng: np.random.Generator, users: int = 60, visits: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visits of users who differ in how much they click (mean 0.1), and in how often they come."""
    mean = rng.beta(2, 18, users)
    who = rng.choice(users, size=users * visits, p=rng.dirichlet(np.full(users, 3.0)))
    return who, np.full(len(who), 10), rng.binomial(10, mean[who])


def test_intervals_over_users_hold_what_they_promise_and_naive_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    worlds = 400
    covered = naive = 0
    for _ in range(worlds):
        data = crowd(rng)
        interval = clustered_rate(*data)
        covered += interval.low <= 0.1 <= interval.high
        plain = wilson(data[2].sum(), data[1].sum())
        naive += plain.low <= 0.1 <= plain.high
    assert 0.90 <= covered / worlds <= 0.98
    assert naive / worlds < 0.6


@pytest.mark.long
def test_a_paired_lift_holds_what_it_promises_and_is_narrower_than_one_between_strangers() -> None:
    rng = np.random.default_rng(2)
    worlds, found, widths = 300, 0, []
    for _ in range(worlds):
        users, shown, _ = crowd(rng)
        own = rng.beta(2, 18, users.max() + 1)[users]
        first, second = rng.binomial(10, own), rng.binomial(10, own)
        paired = paired_lift(users, (shown, first), (shown, second))
        found += not paired.low <= 0 <= paired.high
        strangers, nothing = np.concatenate([users, users + users.max() + 1]), np.zeros_like(shown)
        one = np.concatenate([shown, nothing]), np.concatenate([first, nothing])
        other = np.concatenate([nothing, shown]), np.concatenate([nothing, second])
        apart = paired_lift(strangers, one, other)
        widths.append((paired.high - paired.low) / (apart.high - apart.low))
    assert 0.01 < found / worlds < 0.09
    assert np.mean(widths) < 0.6
    clicks = first
    same = paired_lift(users, (shown, clicks), (shown, clicks))
    assert same == pytest.approx((0, 0, 0), abs=1e-6)
    twice = paired_lift(users, (shown, 2 * clicks), (shown, clicks))
    assert twice == pytest.approx((1, 1, 1), abs=1e-6)


def test_lift_over_nothing_is_undefined() -> None:
    users, shown, none = np.arange(3), np.full(3, 10), np.zeros(3)
    assert all(math.isnan(value) for value in paired_lift(users, (shown, np.ones(3)), (shown, none)))


def test_percentiles() -> None:
    assert percentiles(range(101), (50, 99)) == (50, 99)
    assert percentiles([4.0], (50, 99)) == (4, 4)
    assert all(math.isnan(value) for value in percentiles([]))

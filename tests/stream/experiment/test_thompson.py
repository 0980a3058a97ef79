"""Thompson's shares against draws, and what a bandit comes to in simulated experiments with known rates."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.experiment.statistics.confidence_sequence import mixture_scale
from stream.experiment.statistics.effect import compare
from stream.experiment.statistics.moments import Moments
from stream.experiment.thompson import probability_best, thompson_shares
from stream.experiment.timeline import rate_so_far
from stream.experiment.verdict import lift_limits

FLOOR, EXPLORE, SLOTS, ALPHA, EFFECT = 0.1, 0.3, 10, 0.1, 0.05


def test_the_probability_of_being_the_best_is_that_of_draws() -> None:
    values, variances = np.array([0.1, 0.103, 0.09, 0.104]), np.array([4e-6, 1e-6, 9e-6, 2.5e-5])
    rng = np.random.default_rng(0)
    draws = rng.normal(values, np.sqrt(variances), (400_000, 4)).argmax(axis=1)
    drawn = np.bincount(draws, minlength=4) / len(draws)
    assert probability_best(values, variances) == pytest.approx(drawn, abs=0.003)
    assert probability_best(values, variances).sum() == pytest.approx(1)
    assert probability_best(np.array([0.1, 0.1]), np.array([1e-12, 1e-2])) == pytest.approx([0.5, 0.5], abs=1e-3)


def test_shares_sum_to_one_keep_the_floor_and_wait_for_enough_users() -> None:
    rng = np.random.default_rng(1)

    def arm(rate: float, users: int) -> Moments:
        return Moments.of(np.stack([np.full(users, 20), rng.binomial(20, rate, users)], axis=1))

    found = thompson_shares({"a": arm(0.1, 3000), "b": arm(0.2, 3000), "c": arm(0.1, 3000)}, floor=0.2)
    assert found is not None
    assert found.shares == pytest.approx({"a": 0.2, "b": 0.6, "c": 0.2}, abs=1e-6)
    assert sum(found.best.values()) == pytest.approx(1)
    assert thompson_shares({"a": arm(0.1, 3000), "b": arm(0.2, 40)}, floor=0.2) is None
    assert thompson_shares({"a": arm(0.1, 3000), "b": arm(0.001, 60)}, floor=0.2) is None
    same = arm(1.0, 60)  # nothing varies, and nothing fails
    assert thompson_shares({"a": same, "b": same}, floor=0.2).shares == pytest.approx({"a": 0.5, "b": 0.5})  # type: ignore[union-attr]


@dataclass
class Played:
    """What many experiments came to.

    Attributes:
        regret: clicks missed against always showing the better arm, over those of equal shares; mean of all.
        least: the smallest share that an arm ever had.
        lift: whether the explorers' interval held the true lift, (runs, looks).
        rates: whether the weighted intervals held the true rates, (runs, looks, 2).
        error: of the last weighted rates, relative to the true ones, (runs, 2).
        plain_error: of the unweighted click rates of all users, likewise.
        p_plain: whether an unweighted interval held the true rates, (runs, looks, 2).
    """

    regret: float
    least: float
    lift: NDArray[np.bool_]
    rates: NDArray[np.bool_]
    error: NDArray[np.float64]
    plain_error: NDArray[np.float64]
    plain: NDArray[np.bool_]


def play(rates: tuple[float, float], *, runs: int, users: int, steps: int, seed: int, honest: bool = True) -> Played:
    """Play experiments with two arms: users return and differ much in how they click; shares change at each step.

    With `honest`, shares follow from those who explore, as `samstream bandit` does it; else from everybody, plainly.
    """
    rng = np.random.default_rng(seed)
    taste = np.minimum(rng.gamma(2.0, 0.5, (runs, users)), 5.0)
    taste /= np.mean(np.minimum(np.random.default_rng(9).gamma(2.0, 0.5, 1_000_000), 5.0))
    often = rng.beta(2, 6, (runs, users))
    race = rng.exponential(size=(runs, users, 2))
    explores = rng.random((runs, users)) < EXPLORE
    own = race.argmin(axis=2)
    shares = np.full((runs, 2), 0.5)
    sums = np.zeros((runs, users, 2, 2))  # arm, (shown, clicks)
    weighted = np.zeros_like(sums)
    truth, missed, visits = np.array(rates), 0.0, 0
    looks: list[tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]] = []
    least, row, column = 1.0, np.arange(runs)[:, None], np.arange(users)[None, :]
    for _ in range(steps):
        moved = (race / shares[:, None, :]).argmin(axis=2)
        arm = np.where(explores, own, moved) if honest else moved
        propensity = np.take_along_axis(shares, arm, axis=1)
        propensity = np.where(explores, 0.5, propensity) if honest else propensity
        shown = SLOTS * (rng.random((runs, users)) < often)
        clicks = rng.binomial(shown, truth[arm] * taste)
        missed += float(((truth.max() - truth[arm]) * shown).sum())
        visits += int(shown.sum())
        for place, value in enumerate((shown, clicks)):
            sums[row, column, arm, place] += value
            weighted[row, column, arm, place] += value / propensity
        for run in range(runs):
            learned = sums[run][explores[run]] if honest else sums[run]
            seen = {name: Moments.of(_present(learned[:, place])) for place, name in enumerate("ab")}
            found = thompson_shares(seen, floor=FLOOR)
            if found is not None:
                shares[run] = list(found.shares.values())
        least = min(least, float(shares.min()))
        looks.append(_look(sums, weighted, explores, truth))
    lift, held, plain = (np.stack(column, axis=1) for column in zip(*looks, strict=True))
    rate, counted = (each[..., 1].sum(axis=1) / each[..., 0].sum(axis=1) / truth - 1 for each in (weighted, sums))
    equal = abs(rates[0] - rates[1]) / 2 * visits
    return Played(missed / equal if equal else math.nan, least, lift, held, rate, counted, plain)


def _present(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors[vectors[:, 0] > 0]


def _look(
    sums: NDArray[np.float64], weighted: NDArray[np.float64], explores: NDArray[np.bool_], truth: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the explorers' lift, the weighted rates, and the plain rates of all users hold the truth now."""
    # A user who is in no arm's moments is a vector of zeros: with ratios, that changes only the count.
    arms = [Moments.of(np.where(explores[..., None], sums[:, :, place], 0.0)) for place in range(2)]
    effect = compare(arms[1], arms[0])
    _, low, high = lift_limits(effect.log_ratio, scale=mixture_scale(math.log1p(EFFECT), ALPHA), alpha=ALPHA)
    true = truth[1] / truth[0] - 1
    lift = (low <= true) & (true <= high) | np.isnan(low)

    def held(vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
        answers = []
        for run in range(len(vectors)):
            for place in range(2):
                interval = rate_so_far(Moments.of(vectors[run, :, place]), alpha=ALPHA, minimum_effect=EFFECT)
                answers.append(math.isnan(interval.low) or interval.low <= truth[place] <= interval.high)
        return np.array(answers).reshape(len(vectors), 2)

    return lift, held(weighted), held(sums)


@pytest.mark.long
def test_a_bandit_misses_fewer_clicks_keeps_its_floor_and_its_intervals_hold() -> None:
    found = play((0.08, 0.1), runs=40, users=1000, steps=25, seed=1)
    assert found.regret < 0.8
    assert FLOOR - 1e-9 <= found.least < 0.2
    assert found.lift.all(axis=1).mean() >= 1 - ALPHA
    assert found.rates.all(axis=1).mean(axis=0).min() >= 1 - ALPHA
    assert np.abs(found.error.mean(axis=0)).max() < 4 * found.error.std() / math.sqrt(40)


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.085, 0.1)])
def test_estimates_of_many_bandits_are_unbiased_and_their_intervals_hold(rates: tuple[float, float]) -> None:
    found = play(rates, runs=400, users=1500, steps=30, seed=2)
    assert found.least >= FLOOR - 1e-9
    assert not found.regret > 0.75
    allowed = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)
    assert 1 - found.lift.all(axis=1).mean() <= allowed
    assert 1 - found.rates.all(axis=1).mean(axis=0).min() <= allowed
    assert np.abs(found.error.mean(axis=0) / found.error.std(axis=0)).max() * math.sqrt(400) < 3.5

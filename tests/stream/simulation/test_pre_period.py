"""The time before an experiment tells users apart, and nothing else."""

import numpy as np
import pytest

from stream.experiment.plan import Experiment
from stream.experiment.user_sums import UserSums
from stream.report.sentences import cuped_line
from stream.settings import ArmSettings
from stream.simulation.config import WorldConfig
from stream.simulation.report import simulate_pre_period
from stream.simulation.world import World

SLOTS = 5
EXPERIMENT = Experiment(name="x", arms=(ArmSettings(name="a"), ArmSettings(name="b")))


def world(seed: int = 0) -> World:
    config = WorldConfig(users=200, history=10, categories=12, interests=3, user_effect_sd=1.0, candidates=20)
    return World(config, seed=seed, start=1_700_000_000_000)


def whole(before: UserSums) -> list[float]:
    """Everybody's shown and clicked before: they come into an arm by one visit each."""
    sums = UserSums()
    sums.merge(before)
    sums.extend("a", [str(user) for user in range(200)], [1] * 200, [0] * 200, [0] * 200)
    return [float(total) for total in sums.moments("a").total[2:]]


def by_user(before: UserSums) -> list[list[float]]:
    """Everybody's shown and clicked before, one after the other."""
    each = []
    for user in range(200):
        sums = UserSums()
        sums.merge(before)
        sums.add(str(user), "a", 1, 0, 0)
        each.append([float(total) for total in sums.moments("a").total[2:]])
    return each


@pytest.mark.long
def test_every_visit_shows_all_slots_and_the_clicks_are_those_of_a_random_choice() -> None:
    before = simulate_pre_period(world(), 2000, SLOTS)
    assert before.arms == ()
    shown, clicks = whole(before)
    assert shown == 2000 * SLOTS
    truth, again = [], world()
    for user in again.visitors(2000).tolist():
        items = again.impression(user, again.start).items
        truth.append(again.click_probability(user, items, again.start).mean())
    assert clicks / shown == pytest.approx(np.mean(truth), abs=0.012)


def test_the_same_seed_is_the_same_time_and_none_is_none() -> None:
    once, again, other = (by_user(simulate_pre_period(world(seed), 100, SLOTS)) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    assert whole(simulate_pre_period(world(), 0, SLOTS)) == [0, 0]


@pytest.mark.slow
def test_it_narrows_the_interval_of_the_verdict_and_is_told() -> None:
    there = world()
    with_before, without = UserSums(), UserSums()
    with_before.merge(simulate_pre_period(there, 8000, SLOTS))
    for place, user in enumerate(there.visitors(8000).tolist()):
        items = there.impression(user, there.start).items[:SLOTS]
        clicks = int(there.clicks(user, items, there.start).sum())
        for sums in (with_before, without):
            sums.add(str(user), "ab"[user % 2], SLOTS, clicks, place)
    (pair,), (plain,) = EXPERIMENT.verdict(with_before).pairs, EXPERIMENT.verdict(without).pairs
    assert pair.variance_left < 0.6
    assert pair.lift.high - pair.lift.low < 0.85 * (plain.lift.high - plain.lift.low)
    assert "times the users" in cuped_line(EXPERIMENT.verdict(with_before))[0]
    assert cuped_line(EXPERIMENT.verdict(without)) == []

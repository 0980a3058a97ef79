"""Weighted click rates against a plain computation; and a bandit's other counts: who explores, whose outcomes count."""

import random

import pytest

from stream.experiment.assignment import Assignment
from stream.experiment.explorer_counts import ExplorerCounts
from stream.experiment.ledger import Ledger
from stream.experiment.shares_in_force import Explorers
from stream.experiment.statistics.effect import CLICKS, SHOWN
from stream.experiment.weighted_rates import WeightedRates
from stream.schema.events import Outcome
from stream.settings import convert

SALT = "weighted-1"
SETTINGS = convert({"salt": SALT, "arms": [{"name": "a"}, {"name": "b"}], "bandit": {"explore": 0.4}})


def outcome(number: int, user: str, arm: str, clicks: int, propensity: float, label: int) -> Outcome:
    places = list(range(clicks) if label else range(clicks, 10))
    chances, labels = [0.1] * len(places), [label] * len(places)
    items = [f"i{place}" for place in places]
    return Outcome(f"r{number}", user, arm, 1000 + number, 1, 1, items, places, chances, labels, propensity=propensity)


def test_each_click_weighs_as_much_as_its_arm_was_unlikely() -> None:
    rng, weighted, explorers = random.Random(0), WeightedRates(["a", "b"]), Explorers(salt=SALT, share=0.4)
    ledger = Ledger(users=explorers)
    ledger.on_counted = weighted.add_counted
    shown, clicked = {"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}
    for number in range(2000):
        user, arm, clicks = f"u{rng.randrange(300)}", rng.choice("ab"), rng.randrange(1, 5)
        propensity = rng.choice((0.2, 0.8))
        shown[arm] += 10 / propensity
        clicked[arm] += clicks / propensity
        for label in (1, 0):
            ledger.add(0, outcome(number, user, arm, clicks, propensity, label))
    rates = weighted.rates(alpha=0.05, minimum_effect=0.05)
    assert weighted.users == 300
    for arm, (value, low, high) in rates.items():
        assert value == pytest.approx(clicked[arm] / shown[arm])
        assert 0 < low < value < high < 1
    assert set(rates) == {"a", "b"}
    assert all(user in explorers for arm in "ab" for user in ledger.sums.users(arm))


def test_without_enough_users_or_probabilities_there_are_no_rates() -> None:
    weighted = WeightedRates(["a", "b"])
    for number in range(60):
        weighted.add_counted(outcome(number, f"u{number}", "a", 5, 0.0, 1), range(5), True)
        weighted.add_counted(outcome(number, f"u{number % 20}", "b", 5, 0.5, 1), range(5), True)
    assert weighted.rates(alpha=0.05, minimum_effect=0.05) == {}


def test_a_bandit_counts_explorers_alone_and_drops_another_experiments_outcomes() -> None:
    counts, explorers = ExplorerCounts(SETTINGS), Explorers(salt=SALT, share=0.4)
    of = Assignment({"a": 1, "b": 1}, salt=SALT)
    users = [f"u{number}" for number in range(400)]
    foreign = next(user for user in users if user in explorers)
    wrong = "b" if of.arm(foreign) == "a" else "a"
    for partition in (0, 1):  # users of two partitions
        mine = users[partition::2]
        for number, user in enumerate(mine):
            for label in (1, 0):
                counts.add(partition, outcome(number, user, of.arm(user), 5, 0.5, label))
    before = counts.moments()
    exploring = [user for user in users if user in explorers]
    assert {arm: int(each.count) for arm, each in before.items()} == {
        arm: sum(of.arm(user) == arm for user in exploring) for arm in "ab"
    }
    assert sum(float(each.total[CLICKS]) for each in before.values()) == 5 * len(exploring)

    counts.add(0, outcome(9999, foreign, wrong, 5, 0.0, 0))  # of no bandit
    counts.add(0, outcome(9999, next(user for user in users if user not in explorers), wrong, 5, 0.5, 0))
    assert {arm: each.total[SHOWN] for arm, each in counts.moments().items()} == {
        arm: each.total[SHOWN] for arm, each in before.items()
    }
    counts.add(0, outcome(9999, foreign, wrong, 5, 0.5, 0))
    assert counts.foreign == 1
    left = [user for user in users[1::2] if user in explorers]
    assert sum(int(each.count) for each in counts.moments().values()) == len(left)

"""What could make a verdict invalid is found where it is, and not where it is not."""

from collections.abc import Callable

import numpy as np
import pytest

from stream.experiment.user_sums import UserSums
from stream.report.checks import checks
from stream.report.schema import Check
from tests.stream.experiment.judging import analyse

Rate = Callable[[float, float], float]
EQUAL = {"a": 1.0, "b": 1.0}


def lived(rate: Rate, *, users: int = 400, together: bool = False, seed: int = 0) -> UserSums:
    """Arm b clicks at 10%; arm a at `rate` of the time and of the user's own time, both 0 to 1."""
    rng = np.random.default_rng(seed)
    sums = UserSums()
    for user in range(users):
        arrival = 0.0 if together else rng.uniform(0, 0.6)
        for time in np.sort(rng.uniform(arrival, 1, 25)):
            chance = rate(time, time - arrival) if user % 2 else 0.1
            sums.add(f"u{user}", "ba"[user % 2], 10, int(rng.binomial(10, chance)), 24_000 * time)
    return sums


def found(sums: UserSums, shares: dict[str, float] = EQUAL) -> dict[str, Check]:
    return {check.name: check for check in checks(sums, analyse(sums, shares))}


def test_an_experiment_as_it_should_be_has_nothing_against_it() -> None:
    assert {check.state for check in found(lived(lambda *_: 0.13)).values()} == {"fine"}


def test_a_gain_that_wears_off_for_each_user_is_novelty_whenever_users_come() -> None:
    worn = found(lived(lambda _, own: 0.22 if own < 0.2 else 0.1))["novelty"]
    assert worn.state == "note"
    assert worn.answer.startswith("Yes: +")
    assert worn.p is not None
    assert worn.p <= 0.01


def test_where_all_came_at_once_nobody_can_tell_novelty_from_the_time() -> None:
    assert found(lived(lambda _, own: 0.22 if own < 0.2 else 0.1, together=True))["novelty"].state == "unknown"


@pytest.mark.long
def test_a_gain_that_changes_with_the_time_is_told() -> None:
    grown = found(lived(lambda time, _: 0.1 + 0.12 * time))["steady"]
    assert grown.state == "note"
    assert "then" in grown.answer


@pytest.mark.parametrize(
    ("sums", "shares", "name"),
    [
        (lived(lambda *_: 0.1, users=60), EQUAL, "enough"),
        (lived(lambda *_: 0.1), {"a": 3.0, "b": 1.0}, "divided"),
    ],
    ids=["few users", "other shares"],
)
def test_what_takes_the_winner_away_is_fatal(sums: UserSums, shares: dict[str, float], name: str) -> None:
    assert found(sums, shares)[name].state == "fatal"


def test_users_in_two_arms_are_counted() -> None:
    sums = lived(lambda *_: 0.13)
    sums.add("u1", "b", 10, 1, 5.0)
    assert found(sums)["crossed"].state == "note"
    assert "1 users" in found(sums)["crossed"].answer


def test_nothing_at_all_is_no_error() -> None:
    assert found(UserSums())["enough"].state == "fatal"

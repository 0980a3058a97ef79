"""Guardrails hold, break, or cannot be told; by looking often, at most alpha of the worlds break wrongly."""

import math

import numpy as np
import pytest

from stream.experiment.guardrails.counts import GuardrailCounts
from stream.experiment.guardrails.results import (
    GuardrailResult,
    calibration,
    change_against_control,
    check_guardrails,
    rate_against_limit,
)
from stream.experiment.serving_cost import ServingCosts
from stream.experiment.statistics.moments import Array
from stream.schema.events import Outcome, Score, Spent
from stream.settings.guardrail import Guardrail

ALPHA = 0.05


def slow_results(share: float, *, minutes: int = 200, a_minute: int = 200, at_most: float = 50) -> GuardrailResult:
    """Answers of which every so many is slow."""
    guardrail = Guardrail(metric="latency_p99_ms", at_most=at_most)
    answers, every = ServingCosts(), round(1 / share) if share else 10**9
    for number in range(minutes * a_minute):
        spent = Spent(wait=100.0 if number % every == every - 1 else 1.0, state=0.0, score=0.0)
        ts = number * 60_000 // a_minute
        answers.add(Score(f"r{number}", "u", ts, "a", 1, 1, ["x"], [0.5], [0], 1, 0, spent))
    counts = GuardrailCounts([guardrail], answers, within=lambda _: True, arm_of=str, now=0)
    (found,) = check_guardrails([guardrail], counts, {"a": []}, alpha=ALPHA, minimum_effect=0.05)
    return found


def test_a_p99_breaks_when_clearly_more_than_one_in_a_hundred_is_slower() -> None:
    broken, held = slow_results(0.02), slow_results(0.001)
    assert broken.state == "breaks"
    assert broken.value == pytest.approx(0.02)
    assert broken.low > 0.01
    assert broken.text.startswith("share of answers slower than 50 ms 2% (any time: ")
    assert broken.text.endswith("limit at most 1%")
    assert held.state == "holds"
    assert slow_results(0.01).state == "undecided"
    assert slow_results(0.02, at_most=500).state == "holds"


def test_an_arm_that_was_never_slow_holds_once_there_are_enough_answers() -> None:
    assert slow_results(0).state == "holds"
    few = slow_results(0, minutes=49)
    assert (few.state, math.isnan(few.low)) == ("unknown", True)
    assert "49 units (worth 49, as they are uneven), 50 are needed" in few.text
    assert "4,000 cases, 5,000 are needed" in slow_results(0, minutes=200, a_minute=20).text


def minutes(rng: np.random.Generator, worlds: int, count: int, share: float) -> Array:
    """(worlds, count, 2) minutes of 60 to 140 answers; slow ones come in bursts."""
    answers = rng.integers(60, 140, (worlds, count))
    return np.stack([answers, rng.binomial(answers, rng.beta(0.5, 0.5 / share - 0.5, answers.shape))], axis=-1)


def broken_ever(worlds: Array, limit: float) -> float:
    """Share of worlds in which some look of many finds the limit broken."""
    looks = range(50, worlds.shape[1] + 1, 25)
    return float(
        np.mean(
            [any(rate_against_limit(each[:n], limit, alpha=ALPHA)[0].low > limit for n in looks) for each in worlds]
        )
    )


@pytest.mark.long
def test_at_the_limit_it_breaks_in_at_most_alpha_of_worlds_with_peeking() -> None:
    rng = np.random.default_rng(3)
    assert broken_ever(minutes(rng, 300, 1000, 0.01), 0.01) <= ALPHA
    assert broken_ever(minutes(rng, 100, 1000, 0.02), 0.01) > 0.95


def change(shown: Array, events: Array, group: Array) -> float:
    """Lower limit of the change of `group` against the others."""
    one, other = (np.stack([shown[who], events[who]], axis=1).astype(np.float64) for who in (group, ~group))
    return change_against_control(one, other, 0.05, ALPHA)[0].low


@pytest.mark.long
def test_a_change_at_its_limit_and_a_calibration_at_its_limit_break_in_at_most_alpha_of_worlds() -> None:
    rng, limit = np.random.default_rng(4), 0.1
    wrong = found = miscalibrated = 0
    for _ in range(200):
        own = rng.beta(2, 18, 1200)
        shown = rng.geometric(0.1, 1200)
        group = rng.random(1200) < 0.5
        done = rng.poisson(shown * own * np.where(group, 1 + limit, 1.0))
        much = rng.poisson(shown * own * np.where(group, 1 + 10 * limit, 1.0))
        looks = range(200, 1201, 100)

        wrong += any(change(shown[:n], done[:n], group[:n]) > limit for n in looks)
        found += change(shown, much, group) > limit
        predicted = 1.1 * shown * own
        units = np.stack([rng.poisson(shown * own), predicted], axis=1).astype(float)
        miscalibrated += any(calibration(units[:n], 0.05, ALPHA)[0].low > 1.1 for n in looks)
    assert wrong <= 200 * ALPHA
    assert miscalibrated <= 200 * ALPHA
    assert found > 160


def test_calibration_is_predicted_over_real_clicks_of_the_arms_users() -> None:
    guardrail = Guardrail(metric="calibration", at_most=1.2)
    counts = GuardrailCounts([guardrail], ServingCosts(), within=lambda _: True, arm_of=str, now=0)
    for number in range(1000):
        user = f"u{number % 100}"
        outcome = Outcome(f"r{number}", user, "a", 0, 1, 1, ["x", "y"], [0, 1], [0.8, 0.7], [1, 0])
        counts.add_counted(outcome, [0, 1], True)
    users = {"a": [f"u{number}" for number in range(99)], "b": ["u99"]}
    a, b = check_guardrails([guardrail], counts, users, alpha=ALPHA, minimum_effect=0.05)
    assert a.value == pytest.approx(1.5)
    assert a.state == "unknown"  # users who are all alike have no variance
    assert (b.state, "1 users (worth 1" in b.text) == ("unknown", True)


def test_an_arm_is_not_held_against_itself() -> None:
    guardrail = Guardrail(metric="action", action="buy", at_least=-0.1, relative_to="b")
    counts = GuardrailCounts([guardrail], ServingCosts(), within=lambda _: True, arm_of=str, now=0)
    found = check_guardrails([guardrail], counts, {"a": [], "b": []}, alpha=ALPHA, minimum_effect=0.05)
    assert [(each.arm, each.state) for each in found] == [("a", "unknown")]

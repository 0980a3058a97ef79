"""Interleaved outcomes become a verdict: over users, at any look, whatever repeats; held against that of A/B."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.bench.interleaving import impressions_to_decide, simulate_visits
from stream.experiment.interleaving import InterleavingVotes, agreement
from stream.experiment.user_sums import UserSums
from stream.experiment.verdict import Verdict
from stream.schema.events import Outcome
from stream.simulation.config import WorldConfig
from tests.stream.experiment.judging import analyse

PAIR = ("sam", "din")
DIFFERENT = WorldConfig(user_effect_sd=1.0)


def outcome(request: str, user: str, team: str, labels: dict[str, int], *, arm: str = "mixed") -> Outcome:
    count = len(labels)
    return Outcome(
        request, user, arm, 0, 1, 1, list(labels), list(range(count)), [0.1] * count, list(labels.values()), team
    )


def votes(wins: float, *, users: int = 200, requests: int = 20, seed: int = 0) -> list[Outcome]:
    """Outcomes of users of whom each gives `sam` about this share of their votes."""
    rng = np.random.default_rng(seed)
    told = []
    for user in range(users):
        own = rng.beta(20 * wins, 20 * (1 - wins))
        for number in range(requests):
            winner, loser = PAIR if rng.random() < own else PAIR[::-1]
            request = f"{user}-{number}"
            told.append(outcome(request, f"u{user}", winner, {"x": 1}))
            told.append(outcome(request, f"u{user}", winner, {"y": 0}))
            told.append(outcome(request, f"u{user}", loser, {"z": 0}))
    return told


def judged(told: list[Outcome]) -> InterleavingVotes:
    counted = InterleavingVotes()
    for each in told:
        counted.add(each)
    return counted


@pytest.mark.long
def test_a_preference_is_named_with_its_share_interval_and_sentence() -> None:
    found = judged(votes(0.4)).analyse("mixed", PAIR, alpha=0.05)
    assert (found.winner, found.first, found.second) == ("din", "din", "sam")
    assert found.share.low < 0.6 < found.share.high
    assert found.share.low > 0.5
    assert (found.users, found.requests) == (200, 4000)
    assert found.p < 0.001
    assert found.sentence.startswith("din is preferred to sam: it wins 61% of the 4,000 requests with a preference")


def test_no_preference_is_said_as_such_and_too_few_users_as_well() -> None:
    even = judged(votes(0.5, requests=4)).analyse("mixed", PAIR, alpha=0.05)
    assert even.winner is None
    assert even.share.low < 0.5 < even.share.high
    assert even.sentence.endswith("which may be chance")
    few = judged(votes(0.9, users=20)).analyse("mixed", PAIR, alpha=0.05)
    assert few.winner is None
    assert few.sentence == "No preference yet: 20 users have voted in mixed; 50 are needed"
    nobody = InterleavingVotes().analyse("mixed", PAIR, alpha=0.05)
    assert (nobody.winner, nobody.requests) == (None, 0)
    assert math.isnan(nobody.share.value)


@given(st.permutations(range(12)), st.lists(st.integers(0, 11), max_size=10))
def test_order_and_repeats_of_outcomes_change_nothing(order: list[int], again: list[int]) -> None:
    told = votes(0.5, users=2, requests=2)
    once, other = judged(told), judged([told[place] for place in [*order, *again]])
    assert other.analyse("mixed", PAIR, alpha=0.05) == once.analyse("mixed", PAIR, alpha=0.05)


def test_a_request_has_one_vote_for_who_placed_more_of_what_was_clicked() -> None:
    counted = judged(
        [
            outcome("r1", "u", "sam", {"a": 1, "b": 1}),
            outcome("r1", "u", "din", {"c": 1}),
            outcome("r2", "u", "sam", {"a": 1}),
            outcome("r2", "u", "din", {"b": 1}),
            outcome("r3", "u", "din", {"a": 1}),
            outcome("r4", "u", "din", {"a": 0}),
            outcome("r5", "u", "", {"a": 1}, arm="sam"),
        ]
    )
    assert counted.arms == ("mixed",)
    found = counted.analyse("mixed", PAIR, alpha=0.05)
    assert (found.requests, found.users, found.share.value) == (2, 1, 0.5), "r1 for sam, r3 for din"


@pytest.mark.slow
def test_equal_rankings_are_named_in_at_most_five_of_a_hundred_experiments_with_peeking() -> None:
    named = 0
    for seed in range(60):
        counted, told = InterleavingVotes(), votes(0.5, users=100, requests=12, seed=seed)
        order = np.random.default_rng(seed).permutation(len(told))
        for look in np.array_split(order, 5):
            for place in look.tolist():
                counted.add(told[place])
            if counted.analyse("mixed", PAIR, alpha=0.05).winner:
                named += 1
                break
    assert named <= 0.05 * 60


def ab(rates: dict[str, float], shares: dict[str, float] | None = None, **changes: object) -> Verdict:
    sums, rng = UserSums(), np.random.default_rng(5)
    for arm, rate in rates.items():
        names = [f"{arm}{user}" for user in range(300)]
        for time in range(20):
            sums.extend(arm, names, np.full(300, 10), rng.binomial(10, rate, 300), np.full(300, time))
    return analyse(sums, shares or dict.fromkeys(rates, 1.0), **changes)  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.parametrize(
    ("wins", "rates", "kind", "says"),
    [
        (0.6, (0.12, 0.1), "agree", "both prefer sam"),
        (0.6, (0.1, 0.12), "contradict", "interleaving prefers sam, but A/B din"),
        (0.5, (0.12, 0.1), "open", "A/B prefers sam, interleaving has not decided"),
        (0.6, (0.1, 0.1), "open", "interleaving prefers sam, A/B has not decided"),
        (0.5, (0.1, 0.1), "open", "neither"),
    ],
)
def test_the_two_verdicts_are_held_against_each_other(
    wins: float, rates: tuple[float, float], kind: str, says: str
) -> None:
    found = judged(votes(wins)).analyse("mixed", PAIR, alpha=0.05)
    said = agreement(found, ab(dict(zip(PAIR, rates, strict=True))))
    assert said is not None
    assert said.kind == kind
    assert says in said.sentence
    assert agreement(found, ab({"sam": 0.1, "mean": 0.1})) is None


def test_an_ab_verdict_that_does_not_hold_agrees_with_nothing() -> None:
    found = judged(votes(0.6)).analyse("mixed", PAIR, alpha=0.05)
    mismatched = ab({"sam": 0.12, "din": 0.1}, shares={"sam": 9.0, "din": 1.0})
    said = agreement(found, mismatched)
    assert said is not None
    assert (said.kind, said.sentence) == ("open", "interleaving prefers sam, A/B has not decided")


def test_users_of_an_interleaved_arm_are_divided_as_others_and_compared_with_nothing() -> None:
    rates = {"sam": 0.12, "din": 0.1, "mixed": 0.11}
    plain, apart = ab(rates), ab(rates, interleaved=["mixed"])
    assert len(plain.pairs) == 3
    assert [(pair.arm, pair.against) for pair in apart.pairs] == [("sam", "din")]
    assert apart.winner == "sam"
    assert apart.mismatch_p == plain.mismatch_p


@pytest.mark.slow
def test_where_users_differ_interleaving_decides_sooner_than_ab_and_alike() -> None:
    """The ranking that looks at 1000 behaviours is better than the one that looks at 200 of them."""
    found = [
        impressions_to_decide(each)
        for seed in range(3)
        for each in simulate_visits(DIFFERENT, [(1000, 200)], visits=3000, seed=seed)
    ]
    assert [each["interleaving names"] for each in found] == [1, 1, 1]
    assert {each["A/B names"] for each in found} <= {None, 1}
    assert sum(each["A/B"] is None for each in found) >= 2, "users are too different for A/B"

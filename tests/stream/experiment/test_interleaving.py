"""Team-draft interleaving is fair, its verdict keeps its promise, and it agrees with A/B on far fewer requests."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.experiment.interleaving import InterleavedList, interleave, vote
from stream.experiment.statistics.confidence_sequence import mixture_scale, p_value
from stream.experiment.statistics.effect import compare
from stream.experiment.statistics.moments import Moments
from tests.stream.experiment.judging import preference

RANKING = st.lists(st.integers(0, 15), unique=True, max_size=12)


@given(a=RANKING, b=RANKING, slots=st.integers(0, 20), seed=st.integers(0, 99))
def test_a_draft_is_fair_and_shows_nothing_twice(a: list[int], b: list[int], slots: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixed = interleave(a, b, slots, lambda: bool(rng.random() < 0.5))
    assert len(set(mixed.items)) == len(mixed.items) == min(slots, len({*a, *b}))
    for team, ranking in (("a", a), ("b", b)):
        places = [ranking.index(item) for item, by in zip(mixed.items, mixed.teams, strict=True) if by == team]
        assert places == sorted(places), "in the order of the ranking"
    if len(a) == len(b) and set(a) == set(b):
        assert abs(mixed.teams.count("a") - mixed.teams.count("b")) <= 1


def test_rankings_that_agree_show_what_they_agree_on() -> None:
    mixed = interleave("abcdef", "abcdef", 4, lambda: True)
    assert mixed == InterleavedList(tuple("abcd"), ("a", "b", "a", "b"))


def test_each_place_is_drafted_by_both_equally_often() -> None:
    rng = np.random.default_rng(0)
    drafts = [interleave([1, 2, 3], [3, 2, 1], 3, lambda: bool(rng.random() < 0.5)) for _ in range(2000)]
    for place in range(3):
        assert abs(Counter(mixed.teams[place] for mixed in drafts)["a"] - 1000) < 150


def test_a_click_is_a_vote_for_the_ranking_that_drafted_the_item() -> None:
    mixed = interleave([1, 2, 3, 4], [4, 3, 2, 1], 4, lambda: True)
    assert mixed == InterleavedList((1, 4, 2, 3), ("a", "b", "a", "b"))
    assert vote(mixed, {1}) == 1
    assert vote(mixed, {3, 4}) == -1
    assert vote(mixed, {1, 4}) == 0
    assert vote(mixed, set()) == 0
    assert vote(mixed, {1, 2, 4, 99}) == 1


def simulated(rng: np.random.Generator, noise_a: float, noise_b: float, requests: int, users: int = 120) -> np.ndarray:
    """(requests, 4): user, vote of the interleaved list, clicks of A's own list, clicks of B's own list.

    20 items of which users like 5; each ranking sees what they like through noise, and places further down get less.
    """
    rows = []
    leaning = rng.normal(0, 0.6, users)
    for user in rng.integers(users, size=requests):
        liked = (rng.permutation(20) < 5).astype(float)
        a, b = (np.argsort(-(liked + rng.normal(0, noise, 20))).tolist() for noise in (noise_a, noise_b))
        rng_chance = 1 / (1 + np.exp(-(leaning[user] - 3.5 + 2.5 * liked)))

        def clicks(shown: list[int], chance: np.ndarray = rng_chance) -> set[int]:
            looked = rng.random(len(shown)) < 0.85 ** np.arange(len(shown))
            return {item for item, seen in zip(shown, looked, strict=True) if seen and rng.random() < chance[item]}

        mixed = interleave(a, b, 5, lambda: bool(rng.random() < 0.5))
        interleaved = vote(mixed, clicks(list(mixed.items)))
        rows.append((user, interleaved, len(clicks(a[:5])), len(clicks(b[:5]))))
    return np.array(rows)


def ab_winner(rows: np.ndarray) -> str | None:
    """The same requests as an A/B test: even users see A's list, odd users see B's."""
    arms = []
    for remainder, column in ((0, 2), (1, 3)):
        mine = rows[rows[:, 0] % 2 == remainder]
        arms.append(Moments.of_observations(mine[:, 0], np.full(len(mine), 5), mine[:, column]))
    ratio = compare(arms[0], arms[1]).log_ratio
    if p_value(ratio.value, ratio.variance, mixture_scale(0.1, 0.05)) > 0.05:
        return None
    return "a" if ratio.value > 0 else "b"


@pytest.mark.long
def test_it_agrees_with_ab_and_needs_fewer_requests() -> None:
    right = Counter[str]()
    worlds = 8
    for world in range(worlds):
        rows = simulated(np.random.default_rng([1, world]), 0.5, 1.0, requests=1200)
        found = preference(rows[:, 0], rows[:, 1])
        assert found.winner == "a"
        assert ab_winner(rows) in (None, "a"), "never the other one"
        right["interleaving"] += preference(rows[:600, 0], rows[:600, 1]).winner == "a"
        right["ab"] += ab_winner(rows[:600]) == "a"
        right["ab, all requests"] += ab_winner(rows) == "a"
    assert right["interleaving"] >= 0.7 * worlds
    assert right["ab, all requests"] > right["ab"]
    assert right["interleaving"] > right["ab"]


@pytest.mark.parametrize("likeness", [0.0, 2.0])
def test_equal_rankings_have_a_winner_in_at_most_five_of_a_hundred_worlds_with_peeking(likeness: float) -> None:
    """Votes of one user lean to one side, for no reason that a ranking has."""
    rng = np.random.default_rng(2)
    named = 0
    for _ in range(100):
        users = rng.integers(150, size=3000)
        lean = 1 / (1 + np.exp(-rng.normal(0, likeness, 150)))
        votes = np.where(rng.random(3000) < lean[users], 1, -1) * (rng.random(3000) < 0.6)
        named += any(preference(users[:look], votes[:look]).winner for look in range(500, 3001, 500))
    assert named / 100 <= 0.05


def test_no_votes_prefer_nothing() -> None:
    nothing = preference(np.array([1, 2]), np.array([0, 0]))
    assert (nothing.winner, nothing.p, nothing.requests) == (None, 1.0, 0)
    few = preference(np.arange(20), np.ones(20))
    assert few.winner is None

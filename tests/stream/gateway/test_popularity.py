"""The order by which a gateway answers when no score comes: what its newest answers had ranked high."""

import random

from hypothesis import given
from hypothesis import strategies as st

from stream.gateway.popularity import Popularity
from stream.schema.events import Score, Spent


def score(**probabilities: float) -> Score:
    count = len(probabilities)
    return Score(
        "r", "u", 1, "sam", 1, 1, list(probabilities), list(probabilities.values()), list(range(count)), count, 0,
        Spent(0.0, 0.0, 0.0),
    )  # fmt: skip


def test_what_was_ranked_high_comes_first_and_what_is_unknown_last_in_its_own_order() -> None:
    popularity = Popularity()
    assert popularity.order(["x", "a", "b"]) == [0, 1, 2]
    popularity.add(score(a=0.1, b=0.3, c=0.2))
    assert popularity.order(["x", "a", "b", "y", "c"]) == [2, 4, 1, 0, 3]


def test_the_newest_answers_weigh_most() -> None:
    popularity, rng = Popularity(), random.Random(0)
    for _ in range(200):
        popularity.add(score(a=rng.uniform(0.4, 0.6), b=rng.uniform(0.1, 0.3)))
    assert popularity.order(["b", "a"]) == [1, 0]
    popularity.add(score(a=0.0, b=1.0))  # one answer is no trend
    assert popularity.order(["b", "a"]) == [1, 0]
    for _ in range(40):
        popularity.add(score(a=rng.uniform(0.1, 0.3), b=rng.uniform(0.4, 0.6)))
    assert popularity.order(["b", "a"]) == [0, 1]


@given(st.lists(st.dictionaries(st.sampled_from("abcdefghij"), st.floats(0, 1), min_size=1), max_size=30))
def test_no_more_items_are_known_than_may_be_and_those_of_the_newest_answers(answers: list[dict[str, float]]) -> None:
    popularity = Popularity(most=4)
    for answer in answers:
        popularity.add(score(**answer))
        assert len(popularity) <= 4
        newest = list(answer)[-4:]
        known = popularity.order([*"xyz", *newest])
        assert sorted(known[: len(newest)]) == list(range(3, 3 + len(newest)))
        assert known[len(newest) :] == [0, 1, 2]

"""What statistics say of candidates, against a literal computation; and that they know nothing that comes later."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.spec import ModelSpec
from model.statistics.item_statistics import ItemStatistics
from state.behavior import BehaviorArray, behaviors

LIVES = (30.0, 3600.0)
NOW = 1_700_000_000_000


def drawn(count: int, seed: int) -> BehaviorArray:
    rng = np.random.default_rng(seed)
    items = rng.integers(1, 30, count)
    ages = rng.exponential(600_000, count).astype(np.int64)
    return behaviors([(int(item), int(item) % 4, 1, NOW - int(age)) for item, age in zip(items, ages, strict=True)])


def literal(past: BehaviorArray, own: BehaviorArray, item: int, category: int) -> list[float]:
    """The numbers of one candidate, from their definition."""

    def count(events: BehaviorArray, life: float, field: str = "", key: int = 0) -> float:
        if field and not key:
            return 0.0
        chosen = events if not field else events[events[field] == key]
        return float(sum(2.0 ** (-(NOW - int(ts)) / 1000 / life) for ts in chosen["ts"]))

    numbers: list[float] = []
    lives = (*LIVES, math.inf)
    for field, key in (("item", item), ("category", category)):
        logs = [math.log(count(past, life, field, key) + 0.01) for life in lives]
        shares = [
            math.log((count(own, life, field, key) + 0.01) / (count(own, life) + 1))
            - math.log((count(past, life, field, key) + 1) / (count(past, life) + 1))
            for life in lives
        ]
        numbers += [*logs, *(log - logs[-1] for log in logs[:-1]), *shares]
    return numbers


def test_the_numbers_are_those_of_the_definition() -> None:
    past, own = drawn(500, 1), drawn(60, 2)
    statistics = ItemStatistics(LIVES)
    for part in np.array_split(past, 7):
        statistics.fold(part)
    items = np.array([1, 5, 8, 29, 999], np.uint64)
    categories = np.array([1, 1, 0, 1, 77], np.uint32)
    got = statistics.features(own, NOW, items, categories)
    assert got.shape == (5, ModelSpec(statistics=LIVES).numbers)
    expected = [
        literal(past, own, item, category) for item, category in zip(items.tolist(), categories.tolist(), strict=True)
    ]
    # As they travel, in float16: 11 bits.
    np.testing.assert_allclose(got, expected, rtol=2**-11, atol=2e-6)


def test_what_is_folded_later_changes_what_is_said_later_only() -> None:
    """A number looked up when the label is known would tell the label: the click is a behaviour by then."""
    statistics = ItemStatistics(LIVES)
    statistics.fold(drawn(100, 3))
    items, categories = np.array([1, 2], np.uint64), np.array([1, 2], np.uint32)
    own = drawn(10, 4)
    served = statistics.features(own, NOW, items, categories)
    kept = served.copy()
    statistics.fold(behaviors([(1, 1, 1, NOW + 1)]))
    assert (served == kept).all()
    later = statistics.features(own, NOW, items, categories)
    assert later[0, 0] > served[0, 0]
    assert later[1, 0] == served[1, 0]


def test_nothing_is_known_of_an_empty_stream_and_all_is_finite() -> None:
    statistics = ItemStatistics([60.0])
    statistics.fold(behaviors([]))
    got = statistics.features(behaviors([]), 0, np.array([1], np.uint64), np.array([0], np.uint32))
    assert np.isfinite(got).all()


@given(st.lists(st.integers(0, 35), min_size=1, max_size=60), st.integers(0, 300), st.integers(0, 2**31))
def test_a_candidates_numbers_do_not_depend_on_the_others(candidates: list[int], length: int, seed: int) -> None:
    statistics = ItemStatistics(LIVES)
    statistics.fold(drawn(200, seed))
    own = drawn(length, seed + 1)
    items, categories = np.array(candidates, np.uint64), (np.array(candidates) % 4).astype(np.uint32)
    together = statistics.features(own, NOW, items, categories)
    for place in range(len(items)):
        one = slice(place, place + 1)
        assert statistics.features(own, NOW, items[one], categories[one]).tobytes() == together[one].tobytes()


def test_the_share_of_a_user_is_that_of_the_newest_behaviours_that_models_read() -> None:
    """A model of a short history would learn of a long one here."""
    past, own = drawn(300, 8), drawn(80, 9)
    short, whole = ItemStatistics(LIVES, length=20), ItemStatistics(LIVES)
    short.fold(past)
    whole.fold(past)
    items = np.arange(1, 30, dtype=np.uint64)
    asked = NOW, items, (items % 4).astype(np.uint32)
    assert short.features(own, *asked).tobytes() == whole.features(own[-20:], *asked).tobytes()
    assert short.features(own, *asked).tobytes() != whole.features(own, *asked).tobytes()

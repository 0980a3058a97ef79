"""Decayed counts against the sum that defines them, whatever the order, the batches and the gaps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.kernels import native
from model.statistics.decayed_counts import DecayedCounts

LIVES = (60.0, 86_400.0, math.inf)
TIMES = st.integers(0, 2**41)
EVENTS = st.lists(st.tuples(st.integers(0, 5), TIMES, st.integers(0, 1)), max_size=40)


def added(events: list[tuple[int, int, int]], sizes: list[int]) -> DecayedCounts:
    """Add events in batches of these sizes, over and over."""
    counts, start, turn = DecayedCounts(LIVES, columns=2), 0, 0
    while start < len(events):
        size = sizes[turn % len(sizes)]
        batch = events[start : start + size]
        for column in (0, 1):
            mine = [(key, ts) for key, ts, kind in batch if kind == column]
            keys, times = np.array([key for key, _ in mine], np.uint64), np.array([ts for _, ts in mine], np.int64)
            counts.add(keys, times, column)
        start, turn = start + size, turn + 1
    return counts


@given(EVENTS, st.lists(st.integers(1, 7), min_size=1), TIMES)
def test_a_count_is_the_sum_of_decayed_events_in_any_order_and_batches(
    events: list[tuple[int, int, int]], sizes: list[int], now: int
) -> None:
    now = max([now, *(ts for _, ts, _ in events)])
    got = added(events, sizes).at(np.arange(6, dtype=np.uint64), now)
    for key in range(6):
        for column in (0, 1):
            ages = [(now - ts) / 1000 for known, ts, kind in events if known == key and kind == column and key]
            expected = [sum(2.0 ** (-age / life) for age in ages) for life in LIVES]
            np.testing.assert_allclose(got[key, column], expected, rtol=1e-9, atol=1e-300)


@pytest.mark.skipif(native.library() is None, reason="the kernel is not built, or this is no CPU with AVX2")
@given(EVENTS, st.booleans(), st.integers(0, 2**32))
def test_compiled_counts_are_those_of_numpy(events: list[tuple[int, int, int]], weighted: bool, seed: int) -> None:
    def counted() -> DecayedCounts:
        rng = np.random.default_rng(seed)
        counts = DecayedCounts(LIVES, columns=2, max_rows=4)
        for column, part in enumerate(np.array_split(np.array(events, np.int64).reshape(-1, 3), 5)):
            weights = rng.uniform(0, 9, len(part)) if weighted else None
            counts.add(part[:, 0].astype(np.uint64), part[:, 1], column % 2, weights)
        return counts

    compiled = counted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: None)
        expected = counted()
    for got, wanted in zip(compiled.touched(), expected.touched(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-300)


def test_weights_count_instead_of_ones_and_an_unknown_key_counts_nothing() -> None:
    counts = DecayedCounts([10.0])
    counts.add(np.array([7, 7, 0], np.uint64), np.array([0, 10_000, 0]), weights=np.array([2.0, 0.5, 9.0]))
    assert counts.at(np.array([7, 8, 0], np.uint64), 10_000)[:, 0, 0].tolist() == pytest.approx([1.5, 0.0, 0.0])
    assert len(counts) == 1


def test_keys_beyond_the_limit_are_not_counted_and_the_others_are() -> None:
    counts = DecayedCounts([10.0], max_rows=2)
    counts.add(np.array([1, 2, 3], np.uint64), np.zeros(3, np.int64))
    counts.add(np.array([3, 2], np.uint64), np.zeros(2, np.int64))
    assert counts.at(np.array([1, 2, 3], np.uint64), 0)[:, 0, 0].tolist() == [1.0, 2.0, 0.0]


def test_an_event_younger_than_the_moment_counts_as_if_it_were_now() -> None:
    counts = DecayedCounts([1.0])
    counts.add(np.array([1], np.uint64), np.array([5000]))
    assert counts.at(np.array([1], np.uint64), 1000)[0, 0, 0] == 1.0

"""Sums are those of a plain loop, whatever the order, the batches and the process they came in."""

import random
from collections import defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.experiment.spans import BINS
from stream.experiment.user_sums import UserSums

Event = tuple[str, str, int, int, float]

EVENTS = st.lists(
    st.tuples(
        st.integers(0, 12).map(lambda number: f"u{number}"),
        st.just(""),
        st.integers(1, 10),
        st.integers(0, 1),
        st.floats(-50, 5000),
    ),
    min_size=1,
    max_size=60,
)


def fed(events: list[Event]) -> UserSums:
    sums = UserSums()
    for event in events:
        sums.add(*event)
    return sums


def in_arms(events: list[Event]) -> list[Event]:
    return [(user, "a" if int(user[1:]) % 2 else "b", *rest) for user, _, *rest in events]  # type: ignore[misc]


def same(one: UserSums, other: UserSums) -> None:
    assert one.crossed == other.crossed
    for arm in ("a", "b"):
        for first, second in ((one.moments(arm), other.moments(arm)), (one.thirds(arm), other.thirds(arm))):
            assert float(first.count) == float(second.count)
            np.testing.assert_array_equal(first.total, second.total)
            np.testing.assert_array_equal(first.outer, second.outer)


@given(events=EVENTS, parts=st.integers(1, 4), seed=st.integers(0, 9))
def test_merged_sums_are_those_of_one_that_saw_everything_in_any_order(
    events: list[Event], parts: int, seed: int
) -> None:
    events = in_arms(events)
    whole = fed(events)
    shuffled = random.Random(seed).sample(events, len(events))
    pieces = [fed(shuffled[part::parts]) for part in range(parts)]
    merged = UserSums()
    for piece in pieces:
        merged.merge(piece)
    same(whole, merged)


@given(events=EVENTS)
def test_moments_are_those_of_a_plain_loop(events: list[Event]) -> None:
    events = in_arms(events)
    sums = fed(events)
    plain: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for user, arm, shown, clicks, _ in events:
        plain[arm][user][0] += shown
        plain[arm][user][1] += clicks
    for arm, users in plain.items():
        moments = sums.moments(arm)
        rows = np.array([[*counts, 0, 0] for counts in users.values()])
        assert moments.count == len(users)
        np.testing.assert_array_equal(moments.total, rows.sum(axis=0))
        np.testing.assert_array_equal(moments.outer, rows.T @ rows)
        if len(users) > 1:
            np.testing.assert_allclose(moments.covariance, np.cov(rows.T), atol=1e-9)
    assert sums.moments("nobody").count == 0


def test_one_batch_is_the_same_as_its_events_one_by_one() -> None:
    events = in_arms([(f"u{number % 7}", "", 10, number % 3, 10.0 * number) for number in range(100)])
    batches = UserSums()
    for arm in ("a", "b"):
        mine = [event for event in events if event[1] == arm]
        batches.extend(
            arm, *(list(column) for column in [next(zip(*mine, strict=True)), *list(zip(*mine, strict=True))[2:]])
        )
    same(fed(events), batches)


def test_thirds_divide_the_time() -> None:
    sums = UserSums()
    for time in range(900):
        sums.add("u1", "a", 1, int(time >= 600), float(time))
    thirds = sums.thirds("a").total.tolist()
    assert sum(thirds[0::2]) == 900
    assert all(abs(shown - 300) <= 900 / BINS * 2 for shown in thirds[0::2])
    assert thirds[1] == 0
    assert thirds[5] >= 0.8 * thirds[4]


def test_a_user_seen_in_two_arms_counts_in_none() -> None:
    sums = fed([("u1", "a", 10, 1, 0), ("u2", "a", 10, 0, 1), ("u1", "b", 10, 1, 2), ("u1", "a", 10, 1, 3)])
    assert sums.crossed == 1
    assert [int(sums.moments(arm).count) for arm in "ab"] == [1, 0]
    apart = fed([("u1", "a", 10, 1, 0)])
    apart.merge(fed([("u1", "b", 10, 1, 0)]))
    assert apart.crossed == 1


def test_a_time_before_puts_nobody_into_an_arm() -> None:
    sums = UserSums()
    sums.add_before(["u1", "u2"], [100, 50], [10, 5])
    sums.add("u1", "a", 10, 2, 0.0)
    other = UserSums()
    other.add_before(["u1"], [1], [1])
    sums.merge(other)
    assert sums.moments("a").total.tolist() == [10, 2, 101, 11]
    assert sums.moments("a").count == 1


def test_sums_within_and_by_the_end_of_each_span_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    events = [
        (f"u{rng.integers(9)}", "a", 10, int(rng.integers(3)), float(time))
        for time in np.sort(rng.uniform(7, 900, 200))
    ]
    sums = fed(events)
    sums.add_before(["u1", "u2"], [100, 50], [10, 5])
    edges = sums.edges
    assert edges[0] <= events[0][-1]
    assert edges[-1] > events[-1][-1]
    spans, looks = sums.per_span("a"), sums.cumulative("a")
    for place, (low, high) in enumerate(pairwise(edges)):
        within = [event for event in events if low <= event[4] < high]
        until = [event for event in events if event[4] < high]
        users = {event[0] for event in until}
        assert spans.total[place].tolist() == [sum(event[2] for event in within), sum(event[3] for event in within)]
        assert looks.total[place].tolist() == [
            sum(event[2] for event in until),
            sum(event[3] for event in until),
            100 * ("u1" in users) + 50 * ("u2" in users),
            10 * ("u1" in users) + 5 * ("u2" in users),
        ]
        assert spans.count[place] == looks.count[place] == len(users)
    np.testing.assert_array_equal(looks.outer[-1], sums.moments("a").outer)


def test_own_time_begins_with_the_first_visit_of_each() -> None:
    sums = UserSums()
    for time in range(240):
        sums.add("early", "a", 1, int(time < 60), float(time))
        if time >= 128:
            sums.add("late", "a", 1, int(time < 188), float(time))
    assert sums.thirds_since_first_visit("a").total.tolist() == [160, 120, 80, 0], (
        "the late one was not there for a last third"
    )
    assert sums.late_share == 0.5
    assert np.isnan(UserSums().late_share)
    assert sums.users("a") == ["early", "late"]

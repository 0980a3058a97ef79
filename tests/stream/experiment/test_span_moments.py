"""Moments over spans are those of `UserSums`, whatever the order and the parts they were counted in."""

import random
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stream.experiment.span_moments import SpanMoments, Spans
from stream.experiment.statistics.moments import Moments
from stream.experiment.user_sums import UserSums

Visit = tuple[str, str, int, int, int]
"""User, arm, shown, clicks, time."""

VISITS = st.lists(
    st.tuples(
        st.integers(0, 12), st.integers(1, 10), st.integers(0, 1), st.one_of(st.integers(0, 99), st.integers(0, 10**6))
    ).map(lambda visit: (f"u{visit[0]}", "ab"[visit[0] % 2], *visit[1:])),
    min_size=1,
    max_size=60,
)


def counted(visits: list[Visit], batches: int = 1) -> SpanMoments:
    """Count visits as the monitor does: users' rows, of which the moments are told what they were and what they are."""
    moments = SpanMoments()
    rows: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(dict)
    for batch in range(batches):
        part = visits[len(visits) * batch // batches : len(visits) * (batch + 1) // batches]
        if not part:
            continue
        old = {key: {time: [*counts] for time, counts in row.items()} for key, row in rows.items()}
        for user, arm, shown, clicks, time in part:
            counts = rows[user, arm].setdefault(time, [0, 0])
            counts[0] += shown
            counts[1] += clicks
        times = [visit[4] for visit in part]
        moments.extend_to(min(times), max(times))
        for user, arm in {(user, arm) for user, arm, *_ in part}:
            before = [spanned(old[user, arm], moments.width)] if (user, arm) in old else []
            moments.change(arm, before, [spanned(rows[user, arm], moments.width)])
    return moments


def spanned(row: dict[int, list[int]], width: int) -> Spans:
    spans: dict[int, list[int]] = {}
    for time, (shown, clicks) in row.items():
        counts = spans.setdefault(time // width, [0, 0])
        counts[0] += shown
        counts[1] += clicks
    return spans


def summed(visits: list[Visit]) -> UserSums:
    sums = UserSums()
    for visit in visits:
        sums.add(*visit)
    return sums


def same(one: Moments, other: Moments) -> None:
    size = one.total.shape[-1]
    assert one.count == other.count
    np.testing.assert_array_equal(one.total, other.total[:size])
    np.testing.assert_array_equal(one.outer, other.outer[:size, :size])


@pytest.mark.long
@given(visits=VISITS, batches=st.integers(1, 9), parts=st.integers(1, 4), seed=st.integers(0, 9))
def test_the_moments_are_those_of_the_users_sums(visits: list[Visit], batches: int, parts: int, seed: int) -> None:
    shuffled = random.Random(seed).sample(visits, len(visits))
    merged = SpanMoments()
    for part in range(parts):  # users are divided, as they are among partitions
        mine = [visit for visit in shuffled if int(visit[0][1:]) % parts == part]
        merged.merge(SpanMoments.unpack(counted(mine, batches).pack()))
    sums = summed(visits)
    assert merged.arms == sums.arms
    for arm in ("a", "b", "nobody"):
        same(merged.moments(arm), sums.moments(arm))
        same(merged.thirds(arm), sums.thirds(arm))


@pytest.mark.long
@given(visits=VISITS)
def test_a_look_back_is_what_was_seen_then(visits: list[Visit]) -> None:
    moments = counted(visits)
    for arm in moments.arms:
        looks, each = moments.cumulative(arm), moments.per_span(arm)
        for span, (begin, end) in enumerate(pairwise(moments.edges)):
            until = summed([visit for visit in visits if visit[4] < end]).moments(arm)
            same(Moments(looks.count[span], looks.total[span], looks.outer[span]), until)
            within = summed([visit for visit in visits if begin <= visit[4] < end]).moments(arm)
            np.testing.assert_array_equal(each.total[span], within.total[:2])
            np.testing.assert_array_equal(each.outer[span], within.outer[:2, :2])
            assert each.count[span] == until.count


def test_parts_that_do_not_fit_together_are_refused() -> None:
    packed = counted([("u1", "a", 10, 1, 5), ("u2", "a", 10, 1, 50)]).pack()
    arm = packed.arms["a"]
    for damaged in (
        replace(packed, used=25),
        replace(packed, width=0),
        replace(packed, used=packed.used - 1),
        replace(packed, arms={"a": replace(arm, outer=arm.outer[:-8])}),
        replace(packed, arms={"a": replace(arm, total=b"1")}),
    ):
        with pytest.raises(ValueError, match=r"."):
            SpanMoments.unpack(damaged)

"""The merge: time order across topics, arrival order within one, and patience with a topic that lags."""

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.task.merge import Merge


def at_end(*topics: str) -> Callable[[str], bool]:
    return lambda topic: topic in topics


def test_the_oldest_goes_first_and_the_first_topic_at_equal_times() -> None:
    merge: Merge[str] = Merge(("a", "b"), patience=1)
    merge.add("b", 1, "b1")
    merge.add("b", 2, "b2")
    merge.add("a", 2, "a2")
    assert list(merge.drain(at_end("a", "b"), 0, 10)) == ["b1", "a2", "b2"]


def test_a_topic_that_lags_is_waited_for_until_patience_runs_out() -> None:
    merge: Merge[str] = Merge(("a", "b"), patience=2)
    merge.add("b", 1, "b1")
    merge.add("b", 5, "b5")
    assert not list(merge.drain(at_end("b"), 10.0, 10))
    assert not list(merge.drain(at_end("b"), 11.9, 10))
    merge.add("a", 3, "a3")
    assert list(merge.drain(at_end("b"), 11.9, 10)) == ["b1", "a3"]
    assert not list(merge.drain(at_end("b"), 12.0, 10)), "patience starts again"
    assert list(merge.drain(at_end("b"), 14.0, 10)) == ["b5"]
    assert merge.forced == 1


def test_patience_does_not_begin_while_what_is_waited_for_may_be_on_its_way() -> None:
    merge: Merge[str] = Merge(("a", "b"), patience=2)
    merge.add("a", 1, "early")
    assert not list(merge.drain(at_end(), 0.0, 10))
    assert not list(merge.drain(at_end(), 50.0, 10, strict=True))
    assert not list(merge.drain(at_end(), 51.0, 10))
    assert list(merge.drain(at_end(), 52.0, 10)) == ["early"]


def test_a_limit_leaves_the_rest_for_the_next_time() -> None:
    merge: Merge[int] = Merge(("a",), patience=1)
    for number in range(5):
        merge.add("a", number, number)
    assert list(merge.drain(at_end("a"), 0, 2)) == [0, 1]
    assert len(merge) == 3
    assert list(merge.drain(at_end("a"), 0, 10)) == [2, 3, 4]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50)), max_size=40),
    st.lists(st.integers(1, 40), max_size=10),
)
def test_whatever_arrives_when_the_order_is_the_same(arrivals: list[tuple[str, int]], cuts: list[int]) -> None:
    times = {topic: sorted(time for name, time in arrivals if name == topic) for topic in "abc"}
    whole: Merge[tuple[int, str]] = Merge("abc", patience=1)
    piecewise: Merge[tuple[int, str]] = Merge("abc", patience=1)
    for topic, ordered in times.items():
        for time in ordered:
            whole.add(topic, time, (time, topic))
    expected = list(whole.drain(at_end(*"abc"), 0, 1000))
    assert expected == sorted(expected, key=lambda event: event[0])

    left = {topic: list(ordered) for topic, ordered in times.items()}
    released: list[tuple[int, str]] = []
    order = [name for name, _ in arrivals]
    for index, name in enumerate(order):
        piecewise.add(name, left[name][0], (left[name].pop(0), name))
        if index in cuts:
            released += piecewise.drain(lambda topic: not left[topic], 0, 1000)
    released += piecewise.drain(at_end(*"abc"), 0, 1000)
    assert released == expected


class Numbers:
    """A run of (time, topic, number) events."""

    def __init__(self, topic: str, times: list[int], first: int) -> None:
        self.topic, self.first = topic, first
        self.times = np.array(times, np.int64)

    def part(self, begin: int, end: int) -> "Numbers":
        return Numbers(self.topic, self.times[begin:end].tolist(), self.first + begin)

    def events(self) -> list[tuple[int, str, int]]:
        return [(time, self.topic, self.first + place) for place, time in enumerate(self.times.tolist())]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 9), min_size=1, max_size=6)), max_size=12),
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=12),
)
def test_runs_come_out_as_their_events_would_one_by_one(
    arrivals: list[tuple[str, list[int]]], steps: list[tuple[int, bool]]
) -> None:
    """Times may go back within a topic; patience of none lets a topic that lags be passed over."""
    single: Merge[tuple[int, str, int]] = Merge("ab", patience=0)
    runs: Merge[Numbers] = Merge("ab", patience=0)
    number = 0
    for topic, times in arrivals:
        run = Numbers(topic, times, number)
        number += len(times)
        runs.add_run(topic, run)
        for event in run.events():
            single.add(topic, event[0], event)
    for limit, ended in [*steps, (100, True)]:
        at = at_end(*"ab") if ended else at_end()
        expected = list(single.drain(at, 0.0, limit))
        assert [event for run in runs.drain(at, 0.0, limit) for event in run.events()] == expected
        assert (len(runs), runs.backlog("a"), runs.forced) == (len(single), single.backlog("a"), single.forced)
        if not ended and single.backlog("a"):
            assert runs.pop("a").events() == [single.pop("a")]

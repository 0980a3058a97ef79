"""One partition of a replay: the order in which a visit is asked, clicked and revealed, and what it waits for."""

import pytest

from stream.datasets.base import DatasetTotals, Observation, Step, Visit, first_visits
from stream.errors import ReplayError
from stream.replay.closed_loop import ANSWER_TIMEOUT_S, ClosedLoop, ReplayCounts
from stream.schema.events import Behavior, Candidate, Click, Impression, RequestKey
from stream.schema.topics import Topics

TOPICS = Topics("")
Event = Behavior | Click | Impression


def visit(number: int, *clicked: str) -> Visit:
    request, items = f"r{number}", [Candidate(name) for name in "abc"]
    return Visit(
        Impression(request, "u", number, items, slots=3),
        tuple(Click(request, "u", item, number) for item in clicked),
        (Behavior("u", "a", number),),
    )


class Partition:
    """A closed loop with a clock of its own, and what it has sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Event]] = []
        self.counts = ReplayCounts()
        self.now = 0.0
        self.loop = ClosedLoop(
            lambda topic, event: self.sent.append((topic, event)), TOPICS, self.counts, clock=lambda: self.now
        )

    def topics(self) -> list[str]:
        """Return where something was sent since the last call."""
        topics = [topic for topic, _ in self.sent]
        self.sent.clear()
        return topics


def test_a_visit_is_asked_clicked_and_revealed_in_this_order() -> None:
    partition = Partition()
    loop = partition.loop
    for step in (Observation((Behavior("u", "a", 1),)), visit(2, "a", "b"), visit(3)):
        loop.add(step)
    loop.advance()
    assert partition.topics() == [TOPICS.behaviors, TOPICS.impressions]
    loop.advance()
    loop.take_labels(RequestKey("u", "r2"), ["a", "b"])
    loop.take_answer(RequestKey("u", "another"))
    loop.advance()
    assert partition.topics() == [], "it waits for its answer"
    loop.take_answer(RequestKey("u", "r2"))
    loop.take_answer(RequestKey("u", "r2"))
    assert partition.topics() == [TOPICS.clicks] * 2
    loop.advance()
    assert partition.topics() == [TOPICS.behaviors, TOPICS.impressions], "labelled already; the next visit follows"
    assert (loop.waiting, loop.busy) == (0, True)
    loop.take_answer(RequestKey("u", "r3"))
    loop.advance()
    assert partition.topics() == [TOPICS.behaviors]
    assert not loop.busy
    counts = partition.counts
    assert (counts.behaviors, counts.visits, counts.clicks, counts.samples) == (3, 2, 2, 6)
    assert counts.impression_times == [2, 3]


def test_it_waits_until_every_click_is_labelled() -> None:
    partition = Partition()
    partition.loop.add(visit(1, "a", "b"))
    partition.loop.advance()
    partition.loop.take_answer(RequestKey("u", "r1"))
    partition.topics()
    for request, items in (("r1", ["a", "c"]), ("r2", ["b"])):
        partition.loop.take_labels(RequestKey("u", request), items)
        partition.loop.advance()
        assert partition.topics() == []
    partition.loop.take_labels(RequestKey("u", "r1"), ["b"])
    partition.loop.advance()
    assert partition.topics() == [TOPICS.behaviors]


@pytest.mark.parametrize(("answered", "missing"), [(False, "no score"), (True, r"no labels of \['b'\]")])
def test_what_does_not_come_is_named(answered: bool, missing: str) -> None:
    partition = Partition()
    partition.loop.add(visit(1, "a", "b"))
    partition.loop.advance()
    if answered:
        partition.loop.take_answer(RequestKey("u", "r1"))
        partition.loop.take_labels(RequestKey("u", "r1"), ["a"])
    partition.now = ANSWER_TIMEOUT_S
    partition.loop.advance()
    partition.now += 1
    with pytest.raises(ReplayError, match=f"{missing} for request r1"):
        partition.loop.advance()


def test_the_first_visits_end_with_the_last_wanted_one() -> None:
    steps: list[Step] = [
        visit(1, "a"),
        Observation((Behavior("u", "a", 2),)),
        visit(3),
        Observation((Behavior("u", "a", 4),)),
    ]
    assert list(first_visits(steps, 1)) == steps[:1]
    assert list(first_visits(steps, 2)) == steps[:3]
    assert list(first_visits(steps, None)) == list(first_visits(steps, 3)) == steps
    assert DatasetTotals.of(first_visits(steps, 2)) == DatasetTotals(behaviors=3, visits=2, samples=6, positives=1)

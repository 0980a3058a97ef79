"""Answers given before a crash, or by another member of the group, are learned from and not given again."""

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.schema.events import RequestKey, Score, Spent
from stream.task.resume import GivenAnswer
from tests.stream.task.support import (
    LATER,
    SETTINGS,
    T0,
    TOPICS,
    USER,
    USERS,
    Bench,
    Log,
    beginning,
    behavior,
    click,
    impression,
    keys,
)

R = RequestKey(USER, "r")


def given_before(request_id: str = "r", **changes: Any) -> Score:
    """An answer with an order of its own: c2 is the best, then c0."""
    score = Score(
        request_id,
        USER,
        T0,
        "earlier",
        7,
        8,
        ["c0", "c1", "c2", "c3"],
        [0.25, 0.125, 0.5, 0.0625],
        [2, 0, 1, 3],
        2,
        1,
        Spent(0.0, 0.0, 0.0),
    )
    return msgspec.structs.replace(score, **changes)


def test_what_was_shown_before_a_crash_is_learned_from_and_not_asked_again(path: Path) -> None:
    offsets = beginning().offsets | {TOPICS.scores: 7}
    start = beginning(
        offsets=offsets, answers={R: GivenAnswer(given_before(), checksum=99)}, scores_end=30, impressions_end=1
    )
    with closing(Bench(path, start)) as bench:
        assert bench.task.recovered_answers == 1
        assert bench.task.offsets[TOPICS.scores] == 7, "a crash now must find the answer again"
        log = Log(behavior("a", -20), behavior("b", -10), impression())
        assert not bench.turn(*log.records)
        assert (bench.task.recovered_answers, bench.task.open_requests) == (0, 1)
        assert bench.task.counts["answers_recovered"] == 1
        assert bench.task.offsets[TOPICS.scores] == 30
        bench.turn(log.write(click("c1", 10)), log.write(behavior("x", LATER)))
        positive, negative = bench.outcomes
        assert (positive.items, positive.positions, positive.probabilities) == (["c1"], [2], [0.125])
        assert (negative.items, negative.positions, negative.probabilities) == (["c0", "c2"], [1, 0], [0.25, 0.5])
        for sample in bench.samples:
            assert (sample.arm, sample.epoch, sample.version) == ("earlier", 7, 8)
            assert sample.sequence == (1, 0, 99), "what the answer was given for, whatever is folded now"


def test_an_answer_that_knows_more_than_kafka_still_opens_its_window(path: Path) -> None:
    start = beginning(answers={R: given_before(seen=1000)}, impressions_end=1)
    with closing(Bench(path, start)) as bench:
        log = Log(behavior("a", -10), impression())
        bench.turn(*log.records, log.write(behavior("x", LATER)))
        assert [sample.sequence.seen for sample in bench.samples] == [1000]


def test_an_impression_that_came_after_younger_behaviours_finds_the_sequence_of_its_answer_again(path: Path) -> None:
    log = Log(behavior("a", -10), behavior("b", 5), behavior("c", 20))
    asked_late, clicked = impression(), click("c1", 6)
    with closing(Bench(path)) as bench:
        bench.turn(*log.records[:2])
        [request] = bench.turn(log.write(asked_late))
        assert (request.sequence.seen, request.sequence.read_to) == (2, 2)
        answers = bench.given
    records = [*log.records, log.write(clicked)]
    start = beginning(answers=answers, scores_end=1, impressions_end=1, behaviors_end=3)
    with closing(Bench(path, start)) as again:
        young, rest = records[1:3], [records[0], *records[3:]]
        assert not again.turn(*rest)
        assert (again.task.open_requests, again.task.buffered) == (0, 2), "it waits for what its answer knew"
        assert not again.turn(*young)
        again.turn(log.write(behavior("x", LATER)))
        assert again.named_items() == [keys("a", "b")] * 2
        assert again.items() == keys("a", "b", "c", "x")


def test_an_answer_that_read_further_than_kafka_goes_does_not_hold_its_partition(path: Path) -> None:
    start = beginning(answers={R: given_before(read_to=1000)}, impressions_end=1, behaviors_end=1)
    with closing(Bench(path, start)) as bench:
        bench.turn(*Log(behavior("a", 5), impression()).records)
        assert (bench.task.open_requests, bench.task.buffered) == (1, 0)


SHORTER = {"items": ["c0"], "probabilities": [0.5], "order": [0]}


@pytest.mark.parametrize("other", [{"user": USERS[1]}, {"items": ["c1", "c0", "c2", "c3"]}, SHORTER])
def test_an_answer_of_another_user_or_to_other_items_is_no_answer(path: Path, other: dict[str, Any]) -> None:
    given = given_before(**other)
    start = beginning(answers={given.request: given}, scores_end=30, impressions_end=1)
    with closing(Bench(path, start)) as bench:
        assert len(bench.turn(*Log(impression()).records)) == 1
        assert bench.task.counts["answers_recovered"] == 0


def test_users_whose_requests_have_one_id_get_back_each_their_own_answer(path: Path) -> None:
    given = [given_before(user=USERS[0], order=[0, 1, 2, 3]), given_before(user=USERS[1], order=[3, 2, 1, 0])]
    start = beginning(answers={each.request: each for each in given}, scores_end=2, impressions_end=2)
    with closing(Bench(path, start)) as bench:
        log = Log(impression(user=USERS[0]), impression(ts=1, user=USERS[1]))
        assert not bench.turn(*log.records)
        assert bench.task.open_requests == 2
        bench.turn(log.write(behavior("x", 1 + LATER)))
        assert {outcome.user: outcome.items for outcome in bench.outcomes} == {
            USERS[0]: ["c0", "c1"],
            USERS[1]: ["c2", "c3"],
        }


SLACK_MS = round(1000 * SETTINGS.max_future_s)


@pytest.mark.parametrize("younger_ms", [-1000, 0, SLACK_MS, SLACK_MS + 1, 3_600_000])
def test_an_answer_that_is_older_than_the_impression_was_given_to_another_one(path: Path, younger_ms: int) -> None:
    """A topic was recreated, and its users number their requests from "1" again. Clocks may differ."""
    given = GivenAnswer(given_before(read_to=1), timestamp=T0)
    start = beginning(answers={R: given}, scores_end=30, impressions_end=1, behaviors_end=1)
    with closing(Bench(path, start)) as bench:
        asked = bench.turn(Log().write(impression(), timestamp=T0 + younger_ms))
        if younger_ms <= SLACK_MS:
            assert not asked
            assert bench.task.buffered == 1, "it waits for what its answer knew"
        else:
            assert [request.impression.request for request in asked] == [R]
            assert bench.task.counts["answers_recovered"] == 0
            assert bench.task.offsets[TOPICS.scores] == 30


def test_each_of_two_impressions_of_one_id_finds_the_answer_that_was_given_to_it(path: Path) -> None:
    """The first answer is to an impression that is no more, the second and third to those that are read again."""
    hour, arms = 3_600_000, ("gone", "first", "second")
    of_then, first, second = (GivenAnswer(given_before(arm=arm), b"", T0 + n * hour) for n, arm in enumerate(arms))
    later = {R: [first, second]}
    start = beginning(answers={R: of_then}, later_answers=later, scores_end=30, impressions_end=2)
    with closing(Bench(path, start)) as bench:
        log = Log()
        assert not bench.turn(log.write(impression(), timestamp=T0 + hour), log.write(behavior("x", LATER)))
        assert not bench.turn(log.write(impression(ts=LATER), timestamp=T0 + 2 * hour))
        bench.turn(log.write(behavior("y", 3 * LATER)))
        assert [sample.arm for sample in bench.samples] == ["first", "second"]
        assert bench.task.counts["answers_recovered"] == 2


def test_answers_to_nothing_are_forgotten_when_the_impressions_of_the_start_are_read(path: Path) -> None:
    answers = {R: given_before(), RequestKey(USER, "gone"): given_before("gone")}
    with closing(Bench(path, beginning(answers=answers, scores_end=30, impressions_end=2))) as bench:
        log = Log(impression(), impression("r2", 10), impression("gone", 20))
        bench.turn(log.records[0])
        assert bench.task.recovered_answers == 1
        bench.task.acknowledge_score(29)
        assert bench.task.offsets[TOPICS.scores] == 0
        bench.turn(log.records[1])
        assert bench.task.recovered_answers == 0
        assert bench.task.offsets[TOPICS.scores] == 30
        [asked] = bench.turn(log.records[2])
        assert asked.impression.request_id == "gone"


def test_what_kafka_has_of_our_answers_moves_their_end_and_never_back(bench: Bench) -> None:
    assert bench.task.offsets[TOPICS.scores] == 0
    for offset in (3, 9, 5):
        bench.task.acknowledge_score(offset)
    assert bench.task.offsets[TOPICS.scores] == 10


def test_what_the_group_has_answered_is_not_asked_again_but_behaviours_are_folded(path: Path) -> None:
    log = Log(behavior("a", 0), impression("answered", 10), behavior("b", 20), impression("new", 30))
    with closing(Bench(path, beginning(committed_impressions=1, impressions_end=1))) as bench:
        [asked] = bench.turn(*log.records)
        assert asked.impression.request_id == "new"
        assert asked.sequence.seen == 2
        assert bench.task.offsets[TOPICS.impressions] == 2


def test_open_requests_of_a_state_that_was_overtaken_are_dropped(path: Path) -> None:
    log = Log(behavior("a", 0), impression(ts=10), click("c0", 20, "waits"))
    with closing(Bench(path)) as first:
        first.turn(*log.records)
        first.task.commit()
    later = log.write(behavior("x", 20 + LATER))
    with closing(Bench(path)) as second:
        assert second.task.open_requests == 1
        second.turn(later)
        assert [sample.request_id for sample in second.samples] == ["r"]
        assert len(second.refused) == 1
    with closing(Bench(path, beginning(offsets=dict(second.start.offsets), stale_state=True))) as third:
        assert third.task.open_requests == 0
        third.turn(later)
        assert not third.samples
        assert not third.refused
        assert third.items() == keys("a", "x"), "sequences stay"
        third.task.commit()
    with closing(Bench(path)) as fourth:
        assert fourth.task.open_requests == 0

"""What is asked and when, and which behaviours a request sees."""

from state.behavior import category_key, checksum
from stream.schema.events import SequenceName
from tests.stream.task.support import (
    ALIGN_S,
    LATER,
    LENGTH,
    SLACK,
    T0,
    TOPICS,
    USERS,
    Bench,
    Log,
    behavior,
    click,
    impression,
    keys,
    keys_in,
)


def test_a_request_sees_what_came_before_it_and_nothing_later(bench: Bench) -> None:
    [request] = bench.turn(*Log(behavior("a", 10), behavior("b", 20), behavior("c", 30), impression(ts=25)).records)
    assert keys_in(request.example.sequence.tobytes()) == keys("a", "b")
    assert request.sequence == SequenceName(2, 2, checksum(request.example.sequence))
    assert request.example.ts == T0 + 25
    assert request.example.items.tolist() == keys("c0", "c1", "c2", "c3")
    assert request.example.categories.tolist() == [0, *[category_key("food")] * 3]
    assert bench.items() == keys("a", "b", "c")


def test_an_impression_goes_before_a_behaviour_and_a_click_of_the_same_time(bench: Bench) -> None:
    [request] = bench.turn(*Log(behavior("a", 10), behavior("same", 20), click("c0", 20), impression(ts=20)).records)
    assert keys_in(request.example.sequence.tobytes()) == keys("a")
    assert bench.named_items()[0] == keys("a")


def test_a_sample_shows_the_sequence_as_it_was_when_scored(bench: Bench) -> None:
    log = Log(*(behavior(f"before-{number}", number) for number in range(LENGTH + 3)), impression(ts=100))
    [request] = bench.turn(*log.records)
    for number in range(SLACK):
        bench.turn(log.write(behavior(f"after-{number}", 200 + number)))
    bench.turn(log.write(click("c0", 300)))
    bench.turn(log.write(behavior("late", 100 + LATER, user=USERS[1])))
    asked = request.example.sequence.tobytes()
    assert keys_in(asked) == keys(*(f"before-{number}" for number in range(3, LENGTH + 3)))
    assert [bench.named(sample).tobytes() for sample in bench.samples] == [asked, asked]


def test_behaviours_are_waited_for_until_patience_runs_out(bench: Bench) -> None:
    log = Log(impression(ts=25))
    lagging = [TOPICS.behaviors]
    assert not bench.turn(*log.records, now=50.0, lagging=lagging)
    assert bench.task.backlog(TOPICS.impressions) == 1
    [request] = bench.turn(log.write(behavior("a", 10)), log.write(behavior("b", 30)), now=51.0, lagging=lagging)
    assert keys_in(request.example.sequence.tobytes()) == keys("a")
    assert not bench.turn(log.write(impression("r2", 40)), now=60.0, lagging=lagging)
    assert not bench.turn(now=60.0 + ALIGN_S - 0.01, lagging=lagging)
    assert len(bench.turn(now=60.0 + ALIGN_S, lagging=lagging)) == 1


def test_an_impression_that_is_too_old_is_counted_and_not_asked(bench: Bench) -> None:
    log = Log(impression("old"), impression("young", 1), click("c0", 10, "old"))
    [asked] = bench.turn(*log.records, wall=300_001)
    assert asked.impression.request_id == "young"
    assert bench.task.counts["impressions_too_old"] == 1
    assert bench.task.counts["impressions"] == 1
    assert bench.task.offsets[TOPICS.impressions] == 2
    bench.turn(log.write(behavior("x", 10 + LATER)))
    assert [refused.record.topic for refused in bench.refused] == [TOPICS.clicks]


def test_a_step_asks_for_sixteen_at_most_and_goes_on_in_the_next(bench: Bench) -> None:
    log = Log()
    for number in range(40):
        log.write(behavior(f"b{number}", 2 * number))
        log.write(impression(f"r{number}", 2 * number + 1))
    asked = [bench.turn(*log.records), bench.turn(), bench.turn(), bench.turn()]
    assert list(map(len, asked)) == [16, 16, 8, 0]
    requests = [request for part in asked for request in part]
    assert [request.impression.request_id for request in requests] == [f"r{number}" for number in range(40)]
    assert [request.sequence.seen for request in requests] == list(range(1, 41))
    assert bench.items() == keys(*(f"b{number}" for number in range(30, 40)))


def test_a_step_processes_no_more_records_than_its_limit(bench: Bench) -> None:
    bench.turn(*Log(*(behavior(f"b{number}", number) for number in range(5))).records, limit=3)
    assert bench.items() == keys("b0", "b1", "b2")
    assert bench.task.offsets[TOPICS.behaviors] == 3
    assert bench.task.backlog(TOPICS.behaviors) == 2

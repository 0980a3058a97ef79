"""Partitions without new records: windows close at the speed of the wall clock."""

from contextlib import closing
from pathlib import Path

from tests.stream.task.support import IDLE_S, LATER, PRECEDENCE, Bench, Log, behavior, click, impression, keys


def test_windows_close_in_silence_at_the_speed_of_the_wall_clock(bench: Bench) -> None:
    log = Log(impression(size=3, slots=3))
    bench.turn(*log.records, now=100.0)
    assert not bench.task.waits_for_event_time(100.0 + IDLE_S)
    assert bench.task.waits_for_event_time(100.0 + IDLE_S + 0.01)
    bench.task.advance_idle_time(100.0 + (LATER - 1) / 1000)
    bench.settle()
    assert not bench.samples
    bench.task.commit()
    bench.task.advance_idle_time(100.0 + LATER / 1000)
    assert bench.task.changed
    bench.settle()
    assert [outcome.items for outcome in bench.outcomes] == [["c0", "c1", "c2"]]
    assert bench.task.open_requests == 0
    assert not bench.task.waits_for_event_time(1000.0), "nothing waits any more"


def test_a_click_that_waits_in_silence_is_refused_when_its_window_is_over(bench: Bench) -> None:
    bench.turn(*Log(click("c0", 0)).records, now=100.0)
    assert bench.task.waits_for_event_time(106.0)
    bench.task.advance_idle_time(106.0)
    bench.settle()
    assert len(bench.refused) == 1


def test_nothing_is_idle_that_has_no_windows_or_still_has_records_in_hand(path: Path) -> None:
    with closing(Bench(path)) as bench:
        log = Log(behavior("a", 0))
        bench.turn(*log.records, now=0.0)
        assert not bench.task.waits_for_event_time(1000.0)
        bench.turn(log.write(impression(ts=1)), now=1000.0)
        bench.turn(log.write(behavior("b", 2)), now=1000.0, lagging=PRECEDENCE)
        assert not bench.task.waits_for_event_time(2000.0)


def test_a_record_ends_the_silence(bench: Bench) -> None:
    log = Log(impression(size=3, slots=3))
    bench.turn(*log.records, now=100.0)
    bench.turn(log.write(behavior("a", 10)), now=104.0)
    assert not bench.task.waits_for_event_time(106.0)
    assert bench.task.waits_for_event_time(110.0)
    bench.turn(log.write(click("c0", 20)), now=110.0)
    assert [outcome.items for outcome in bench.outcomes] == [["c0"]]


def test_windows_of_a_state_taken_up_again_close_in_silence(path: Path) -> None:
    with closing(Bench(path)) as bench:
        bench.turn(*Log(behavior("a", 0), impression(ts=1)).records)
        bench.task.commit()
    with closing(Bench(path)) as again:
        assert not again.task.waits_for_event_time(500.0), "silence begins with the first step"
        again.turn(now=500.0)
        assert again.task.waits_for_event_time(506.0)
        again.task.advance_idle_time(506.0)
        again.settle()
        assert again.named_items() == [keys("a")]

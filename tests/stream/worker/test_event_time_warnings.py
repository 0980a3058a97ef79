"""Event time that stands while impressions and clicks come is told; one that runs is not."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stream.task.task import Clocks
from stream.worker.event_time_warnings import EventTimeWarnings
from tests.stream.task.support import LATENESS, T0, WINDOW, Bench, Log, behavior, click, impression

SPAN = 2 * (WINDOW + LATENESS)


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "samstream.worker"):
        yield


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    told = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return told


def warnings() -> EventTimeWarnings:
    return EventTimeWarnings((WINDOW + LATENESS) / 1000)


@pytest.mark.parametrize(("speed", "told"), [(0.0, True), (0.05, True), (0.2, False), (1.0, False), (50.0, False)])
def test_a_clock_that_is_slow_or_still_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, speed: float, told: bool
) -> None:
    """Every record by itself is as it should be: `ts` may be hours behind."""
    watched = warnings()
    with closing(Bench(tmp_path / "state")) as bench:
        log = Log()
        for number, at in enumerate(range(0, 3 * SPAN, 100)):
            ts = round(speed * at)
            asked = impression(f"r{number}", ts)
            bench.turn(log.write(asked, timestamp=T0 + 7_200_000 + at), wall=7_200_000 + at)
            bench.turn(log.write(click("c1", ts, f"r{number}"), timestamp=T0 + 7_200_000 + at))
            assert bench.task.clocks is not None
            watched.consider({2: bench.task.clocks}, at / 1000)
    found = lines(caplog)
    assert bool(found) == told
    assert all("event_time_stands partition=2 partitions=1 " in line for line in found)
    assert not told or "behind_s=720" in found[0]


def test_old_behaviours_say_nothing_of_clocks(tmp_path: Path) -> None:
    with closing(Bench(tmp_path / "state")) as bench:
        bench.turn(Log().write(behavior("a", -(10**9)), timestamp=T0))
        assert bench.task.clocks is None


def test_it_is_told_again_while_it_lasts_but_not_more_often_than_every_half_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = warnings()
    for second in range(100):
        still = Clocks(second * (SPAN + 1), 77)
        watched.consider({0: still, 1: still, 3: Clocks(still.record_ms, still.record_ms)}, second)
    found = lines(caplog)
    assert len(found) == 4
    assert all("partition=0 partitions=2 " in line for line in found)


def test_a_partition_that_comes_back_starts_over(caplog: pytest.LogCaptureFixture) -> None:
    watched = warnings()
    watched.consider({0: Clocks(0, 77)}, 0.0)
    watched.consider({}, 1.0)
    watched.consider({0: Clocks(10 * SPAN, 77)}, 2.0)
    watched.consider({0: Clocks(0, 77)}, 3.0)  # an older state, read again
    watched.consider({0: Clocks(SPAN, 77)}, 4.0)
    assert lines(caplog) == []

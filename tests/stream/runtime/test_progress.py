"""Progress: a line at the start, every few seconds and at the end; a bar instead of the lines between on a terminal."""

import io
import logging
import sys

import pytest
from prometheus_client import CollectorRegistry

from stream.runtime.logs import configure, log
from stream.runtime.progress import Progress
from stream.worker.catchup import CatchUp
from stream.worker.metrics import WorkerMetrics

LOGGER = logging.getLogger("samstream.test")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_tells_at_the_start_and_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    progress = Progress(LOGGER, "restoring", "bytes", 200, clock=clock, partition=3)
    for done in range(1, 101):
        clock.now += 0.1
        progress.reach(done)
    assert progress.ratio == 0.5
    assert progress.seconds == pytest.approx(10)
    assert caplog.messages[0] == "restoring partition=3 bytes=0 of=200 seconds=0.000"
    told = [message.split("bytes=")[1].split()[0] for message in caplog.messages]
    assert [round(int(done), -1) for done in told] == [0, 50, 100][: len(told)]
    assert len(told) >= 2


def test_a_bar_takes_the_place_of_the_lines_between_where_a_person_watches(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    progress = Progress(LOGGER, "restoring", "bytes", 200, clock=clock, partition=3)
    clock.now += 60
    progress.reach(100)
    progress.close()
    assert len(caplog.messages) == 1
    assert "restoring partition 3" in terminal.getvalue()
    assert "50%" in terminal.getvalue()


def test_log_lines_go_where_standard_error_is_at_the_moment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    log(LOGGER, "event", value="two words")
    assert later.getvalue().endswith('INFO samstream.test event value="two words"\n')


def test_a_replay_ends_when_nothing_is_left_and_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry = CollectorRegistry()
    replay = CatchUp(WorkerMetrics(registry))

    def told() -> dict[str, float]:
        return {
            metric.name.removeprefix("samstream_"): metric.samples[0].value
            for metric in registry.collect()
            if metric.samples
        }

    def active() -> bool:
        return replay.active

    replay.begin([0, 2], 0)
    assert not active()
    assert not caplog.messages
    replay.begin([0, 2], 1000)
    [line] = caplog.messages
    assert line.startswith("replaying partitions=0,2 records=0 of=1000 seconds=0.0")
    replay.note(250)
    assert active()
    assert (told()["replay_left_records"], told()["replayed_ratio"]) == (250, 0.75)
    replay.note(0)
    assert (told()["replay_left_records"], told()["replayed_ratio"]) == (0, 1)
    assert told()["replay_seconds"] > 0
    assert caplog.messages[-1].startswith("caught_up records=1000 seconds=")
    replay.begin([1], 10)
    replay.forget()
    assert not active()
    assert not caplog.messages[-1].startswith("caught_up"), "the partitions were taken away"

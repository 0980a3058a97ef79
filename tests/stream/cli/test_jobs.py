"""A job that Kafka does not answer any more starts over, unless it never began."""

import sys
import threading

import pytest

from stream.cli.jobs import run_until_stopped
from stream.cli.main import main
from stream.errors import KafkaSilentError, TopicError
from stream.settings import Settings


class Job:
    """Ends in so many ways, one after another; `None` is in order."""

    def __init__(self, *ends: Exception | None, begins: bool = True) -> None:
        self.ends = list(ends)
        self.begins = begins

    def __call__(self, settings: Settings, stop: threading.Event, begun: threading.Event) -> None:  # noqa: ARG002
        if self.begins:
            begun.set()
        if (end := self.ends.pop(0)) is not None:
            raise end


def run(job: Job, stop: threading.Event | None = None) -> None:
    run_until_stopped(job, Settings(), stop or threading.Event())


def test_a_job_that_kafka_stops_answering_starts_again_as_often_as_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    job = Job(KafkaSilentError("no answer for 30 s"), KafkaSilentError("it does not answer"), None)
    run(job)
    assert not job.ends
    assert [line.partition(" ")[0] for line in caplog.messages] == ["restarting"] * 2
    assert "no answer for 30 s" in caplog.messages[0]


def test_a_job_that_never_began_says_so() -> None:
    job = Job(KafkaSilentError("is it running?"), None, begins=False)
    with pytest.raises(KafkaSilentError, match="is it running"):
        run(job)
    assert job.ends == [None]


def test_other_errors_and_a_stop_end_it() -> None:
    with pytest.raises(TopicError):
        run(Job(TopicError("recreated"), None))
    stop = threading.Event()
    stop.set()
    with pytest.raises(KafkaSilentError):
        run(Job(KafkaSilentError("no answer"), None), stop)


def test_a_gateway_without_its_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "stream.gateway.web.server", raising=False)
    for name in ("litestar", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["gateway"]) == 1
    assert "is not installed: pip install 'samstream[gateway]'" in capsys.readouterr().err

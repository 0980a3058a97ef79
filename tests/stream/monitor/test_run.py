"""How a monitor ends: with its first error, whatever fails while it closes."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stream.errors import MonitorError
from stream.monitor import run
from stream.schema.erasures import Erasures
from stream.settings import Settings, convert


@pytest.fixture(autouse=True)
def signals_stay() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_error_at_close_does_not_take_the_place_of_what_ended_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Closing:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def add(self, *_: str) -> None:
            pass

        def close(self) -> None:
            closed.append(type(self).__name__)
            raise OSError("cannot be closed")

        def start(self) -> None:
            pass

    names = ("Sources", "Server", "Watch", "Feed")
    sources, server, watch, feed = (type(name, (Closing,), {}) for name in names)
    monitor = SimpleNamespace(
        app=SimpleNamespace(task=lambda _: None),
        sources=sources(),
        report=None,
        erasures=Erasures(),
        guardrails=Closing(),
        tell_own_topics=lambda _: None,
    )

    def end(_monitor: object) -> int:
        raise MonitorError("the first error")

    for name, stand_in in {
        "prepare": lambda _: monitor,
        "take_over_logs": lambda _: None,
        "MetricsServer": server,
        "TopicWatch": watch,
        "ErasureFeed": feed,
        "_execute": end,
    }.items():
        monkeypatch.setattr(run, name, stand_in)
    monkeypatch.setattr(monitor, "report", lambda *_: None)
    settings: Settings = convert({})
    with pytest.raises(MonitorError, match="the first error"):
        run.run_monitor(settings)
    assert closed == ["Watch", "Server", "Closing", "Feed", "Sources"]

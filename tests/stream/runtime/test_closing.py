"""Closing: everything is closed, whatever fails; the first error is told, later ones are lines in the log."""

import logging

import pytest

from stream.runtime.closing import Resources, close_all


class Resource:
    """Notes that it was closed; fails then, if it is told to."""

    def __init__(self, name: str, closed: list[str], error: BaseException | None = None) -> None:
        self.name, self.closed, self.error = name, closed, error

    def close(self) -> None:
        self.closed.append(self.name)
        if self.error is not None:
            raise self.error


def use(*opened: Resource, error: BaseException | None = None) -> None:
    """Open resources in this order, and work with them until an error."""
    with Resources() as resources:
        for resource in opened:
            resources.add(resource)
        if error is not None:
            raise error


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_all_is_closed_the_last_first_and_the_first_error_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []
    full, later = OSError("the disk is full"), ValueError("no\nuse")
    opened = [
        Resource("server", closed),
        Resource("producer", closed, later),
        Resource("state", closed, full),
        Resource("consumer", closed),
    ]
    with pytest.raises(OSError, match="the disk is full") as raised:
        use(*opened)
    assert closed == ["consumer", "state", "producer", "server"]
    assert raised.value is full
    assert (raised.value.__cause__, raised.value.__context__) == (None, None), "one error, not a chain"
    assert logged(caplog) == ["close_failed what=Resource error=no\\nuse"]
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].exc_info is None


def test_what_the_block_raised_stays_what_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []
    with pytest.raises(KeyError, match="work") as raised:
        use(Resource("a", closed), Resource("b", closed, OSError("at close")), error=KeyError("work"))
    assert closed == ["b", "a"]
    assert raised.value.__context__ is None
    assert logged(caplog) == ['close_failed what=Resource error="at close"']


def test_an_interrupt_at_close_waits_until_all_is_closed() -> None:
    closed: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        use(Resource("a", closed), Resource("b", closed, KeyboardInterrupt()))
    assert closed == ["b", "a"]


def test_steps_are_taken_in_their_order_and_nothing_is_raised_where_all_went_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken: list[int] = []
    close_all([lambda: taken.append(1), lambda: taken.append(2)])
    with Resources() as resources:
        resources.defer(lambda: taken.append(4))
        resources.defer(lambda: taken.append(3))
    assert taken == [1, 2, 3, 4]
    assert not caplog.records


def test_a_block_that_closes_twice_closes_once() -> None:
    closed: list[str] = []
    resources = Resources()
    with resources:
        resources.add(Resource("a", closed))
    with resources:
        pass
    assert closed == ["a"]

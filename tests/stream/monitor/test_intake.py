"""A gap that must not be ends the monitor, and nothing behind it is used."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stream.errors import MonitorError
from stream.monitor.intake import Intake
from stream.monitor.sources import Sources


class Log:
    """Says which offset should come; what is missing before `low` was removed."""

    def __init__(self, low: int) -> None:
        self.low, self.next, self.asked = low, 0, 0

    def take(self, _topic: str, _number: int, offset: int, _timestamp: int) -> int:
        expected, self.next = self.next, offset + 1
        return expected

    def find_gap(self, _topic: str, _number: int, expected: int, _offset: int) -> None:
        self.asked += 1
        if self.low > expected:
            raise MonitorError(f"{self.low - expected} records are gone")

    def check(self, _now: float) -> None:
        pass


def taken(intake: Intake, *offsets: int) -> list[bool]:
    async def take_all() -> list[bool]:
        messages = [SimpleNamespace(topic="outcomes", partition=0, offset=offset, timestamp=1.0) for offset in offsets]
        return [await intake.take(cast("Any", SimpleNamespace(message=message))) for message in messages]

    return asyncio.run(take_all())


def test_records_in_order_are_taken_and_kafka_is_not_asked() -> None:
    log = Log(low=0)
    intake = Intake(cast("Sources", log))
    assert taken(intake, 0, 1, 2) == [True] * 3
    assert log.asked == 0
    asyncio.run(intake.check())


def test_a_gap_that_transactions_leave_is_none() -> None:
    log = Log(low=0)
    intake = Intake(cast("Sources", log))
    assert taken(intake, 0, 2, 3) == [True] * 3
    assert log.asked == 1
    intake.raise_failure()


def test_after_removed_records_nothing_is_used_and_the_check_raises() -> None:
    log = Log(low=5)
    intake = Intake(cast("Sources", log))
    assert taken(intake, 0, 5, 6) == [True, False, False]
    assert log.asked == 1
    for raising in (intake.raise_failure, lambda: asyncio.run(intake.check())):
        with pytest.raises(MonitorError, match="4 records are gone"):
            raising()

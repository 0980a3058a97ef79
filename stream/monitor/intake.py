"""What the monitor has read, without a gap: records that are missing and must not be end it."""

import asyncio
import time
from typing import Any

from faust.types import EventT

from stream.errors import StreamError
from stream.monitor.sources import Sources


class Intake:
    """Takes note of each record that is read.

    Args:
        sources: the logs.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._failure: Exception | None = None

    async def take(self, event: EventT[Any]) -> bool:
        """Take note of an event; returns False when it must not be used, since others before it are missing."""
        message = event.message
        where = message.topic, message.partition
        expected = self._sources.take(*where, message.offset, round(1000 * message.timestamp))
        if message.offset > expected and self._failure is None:
            try:
                await asyncio.to_thread(self._sources.find_gap, *where, expected, message.offset)
            except StreamError as error:
                self._failure = error
        return self._failure is None

    def raise_failure(self) -> None:
        """Raise what went wrong in an agent, which Faust would only log."""
        if self._failure is not None:
            raise self._failure

    async def check(self) -> None:
        """Raise when a topic was recreated, or when records are missing that must not be."""
        self.raise_failure()
        await asyncio.to_thread(self._sources.check, time.monotonic())

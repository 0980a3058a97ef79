"""Publishes what all monitors have counted together."""

import asyncio
from typing import Any

from faust.types import TP

from stream.monitor.aggregate import Aggregate
from stream.monitor.application import MonitorApp
from stream.monitor.reader import AggregateReader
from stream.monitor.records import encode_json

_PUBLISH_S = 1.0


class Publisher:
    """Reads what all monitors have counted; the one that has partition 0 publishes it.

    Args:
        app: the application.
        topic: Faust's topic that is written.
        reader: keeps the aggregate up to date.
        aggregate: of all monitors.
        first: the partition whose owner publishes.
        quiet_s: windows are over when nothing new has come for so long.
    """

    def __init__(
        self, app: MonitorApp, topic: Any, reader: AggregateReader, aggregate: Aggregate, first: TP, quiet_s: float
    ) -> None:
        self._app = app
        self._topic = topic
        self._reader = reader
        self._aggregate = aggregate
        self._first = first
        self._quiet_s = quiet_s
        self.published = 0
        """Records published by this process."""

    async def run(self) -> None:
        """Read and publish until the monitor stops."""
        await self._reader.open()
        last = 0.0
        try:
            while not self._app.should_stop:
                await self._reader.read(self._quiet_s)
                now = asyncio.get_running_loop().time()
                mine = self._first in self._app.consumer.assignment()
                if self._reader.caught_up and now - last >= _PUBLISH_S and mine:
                    last = now
                    sent = [
                        await self._topic.send(key=due.arm.encode(), value=encode_json(due), partition=0)
                        for due in self._aggregate.due_records()
                    ]
                    await asyncio.gather(*sent)
                    self.published += len(sent)
        finally:
            self._reader.close()

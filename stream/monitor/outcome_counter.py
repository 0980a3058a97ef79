"""Counts outcomes: holds them back for a moment, and counts those of a partition together."""

from collections import defaultdict
from typing import Any

from faust.types import EventT

from stream.monitor.application import MonitorApp
from stream.monitor.counts_table import CountsTable
from stream.monitor.intake import Intake
from stream.monitor.partials import PartialsTopic
from stream.monitor.sources import Sources
from stream.schema.events import DECODE_ERRORS, Outcome, decode_outcome

_BATCH = 2000
"""Outcomes of a partition that are counted at once at most; more only where more were read before."""
_MOST_AGAIN = 10 * _BATCH
"""What was counted before is held until all of it is there, but not more than this, for the memory it takes."""


class OutcomeCounter:
    """Counts outcomes in the table, and acknowledges them to Faust when changelog and partials are in Kafka.

    Args:
        app: the application.
        table: where they are counted.
        partials: for all monitors.
        sources: the logs.
        intake: takes note of each record.
    """

    def __init__(
        self, app: MonitorApp, table: CountsTable, partials: PartialsTopic, sources: Sources, intake: Intake
    ) -> None:
        self._app = app
        self._table = table
        self._partials = partials
        self._sources = sources
        self._intake = intake
        self._held: dict[int, list[EventT[Any]]] = defaultdict(list)
        self._behind: set[int] = set()
        self.counted = 0
        """Outcomes counted by this process."""

    @property
    def buffered(self) -> int:
        """Outcomes that are held back."""
        return sum(map(len, self._held.values()))

    async def take(self, stream: Any) -> None:
        """Hold outcomes back as they come."""
        async for event in stream.noack().events():
            if not await self._intake.take(event):
                continue
            held = self._held[event.message.partition]
            held.append(event)
            while len(held) >= (_MOST_AGAIN if event.message.partition in self._behind else _BATCH):
                # The counting below empties it.
                await self._app.sleep(0.01)
                held = self._held[event.message.partition]

    async def count(self) -> None:
        """Count what is held back of every partition, as far as it can be."""
        for partition in list(self._held):
            if (events := self._held[partition]) and not self._is_behind(partition, events):
                del self._held[partition]
                await self._count_partition(partition, events)

    def forget(self) -> None:
        """Drop what is held back: nothing of it is acknowledged, and whoever has its partition reads it again."""
        self._held.clear()

    def _is_behind(self, partition: int, events: list[EventT[Any]]) -> bool:
        """Say whether events do not go as far as what was counted before, so that the rest must be waited for."""
        behind = events[-1].message.offset < self._table.counted_to(partition) and len(events) < _MOST_AGAIN
        (self._behind.add if behind else self._behind.discard)(partition)
        return behind

    async def _count_partition(self, partition: int, events: list[EventT[Any]]) -> None:
        """Count events of a partition, have it in Kafka, and acknowledge them."""
        outcomes = ((event.message.offset, _decoded(event)) for event in events)
        position = self._sources.anchor(events[0].message.topic, partition)
        partials = self._table.count(partition, outcomes, position)
        self.counted += len(events)

        async def written() -> None:
            await self._partials.send(*partials)
            await self._table.acknowledged()

        # A monitor that stops no longer writes: what is not in Kafka by then is not waited for, and is counted again.
        if not (await self._app.wait(written())).stopped:
            for event in events:
                event.ack()


def _decoded(event: EventT[Any]) -> Outcome | None:
    try:
        return decode_outcome(event.value)
    except DECODE_ERRORS:
        return None

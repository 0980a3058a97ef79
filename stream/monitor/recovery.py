"""Where a monitor reads on in the partitions that a rebalance has brought, and what their counts are worth."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from faust.types import TP
from msgspec.structs import replace

from stream.kafka.identity import identify_if_there
from stream.monitor.aggregate import Aggregate
from stream.monitor.application import MonitorApp
from stream.monitor.counts_table import CountsTable
from stream.monitor.directory import claim_directory
from stream.monitor.partials import PartialsTopic
from stream.monitor.reader import AggregateReader
from stream.monitor.records import MomentsPartial, Partial, ProgressPartial
from stream.monitor.sources import Sources
from stream.schema.topics import Topics
from stream.settings import Settings


class CountsRecovery:
    """Goes on with the counts of partitions, or resets them.

    Args:
        settings: the configuration.
        app: the application.
        sources: the logs.
        table: what was counted.
        partials: for all monitors.
        reader: reads the partials of all monitors.
        aggregate: what the reader has read.
    """

    def __init__(
        self,
        settings: Settings,
        app: MonitorApp,
        sources: Sources,
        table: CountsTable,
        partials: PartialsTopic,
        reader: AggregateReader,
        aggregate: Aggregate,
    ) -> None:
        self._settings = settings
        self._topics = Topics(settings.topics.prefix)
        self._app = app
        self._sources = sources
        self._table = table
        self._partials = partials
        self._reader = reader
        self._aggregate = aggregate
        self.known = False
        """Whether it is known what the counts that were found are counts of."""
        self.on_own_topics: Callable[[str, str], None] = lambda *_: None
        """Called with the names of the monitors' own topics once these are there."""

    def claim(self) -> None:
        """See that the tables are this system's, and note that they are.

        Raises:
            MonitorError: when they are another system's, or of another number of partitions.
            KafkaClientError: when Kafka does not answer.
            OSError: when the directory cannot be used.
        """
        outcomes = self._sources.outcomes
        changelog = identify_if_there(self._settings.kafka, self._table.changelog)
        if changelog is not None and changelog.partitions != outcomes.partitions:
            raise self._sources.partitions_changed(changelog.partitions)
        changelog_id = None if changelog is None else changelog.topic_id
        claim_directory(self._settings, outcomes, self._table.changelog, changelog_id)

    async def resume(self, *_: Any, **__: Any) -> None:
        """Find out where to read on.

        Faust calls this when the tables are recovered, and reads after it. What it raises ends the monitor.
        """
        if not self.known:
            await self._partials.declare()
            await self._reader.open_partials()
            await asyncio.to_thread(self.claim)  # the changelog is there now
            self.on_own_topics(self._table.changelog, self._partials.name)
        starts: dict[TP, int] = {}
        for place in sorted(self._app.consumer.assignment()):
            topic, number = place.topic, place.partition
            if topic == self._topics.outcomes:
                starts[place] = await self._resume_counts(number)
            elif topic == self._topics.scores:
                starts[place] = (await asyncio.to_thread(self._sources.resume, topic, number)).offset
        self.known = True
        self._app.starts = starts

    async def _resume_counts(self, number: int) -> int:
        """Go on with the counts of a partition, or reset them; returns the offset to read from."""
        counted = self._table.progress(number)
        # Another table, of windows of another length, may have counted since.
        valid = counted if counted is not None and counted.begun >= self._aggregate.begun(number) else None
        start = await asyncio.to_thread(self._sources.resume, self._topics.outcomes, number, valid)
        partials: list[Partial] = []
        if start.reset:
            begun = max(round(time.time()), self._aggregate.begun(number) + 1, counted.begun + 1 if counted else 0)
            fresh = self._table.start_over(number, begun, self._sources.anchor(self._topics.outcomes, number))
            partials.append(ProgressPartial(number, fresh))
        elif counted is not None:
            # Kafka removes partials that are old, also of a partition in which nothing has happened since.
            moments = self._table.moments(number)
            partials += [MomentsPartial(number, moments)] if moments is not None else []
            partials.append(ProgressPartial(number, replace(counted, windows=[])))
        for partial in partials:
            self._aggregate.add(partial)
        await self._partials.send(*partials)
        await self._table.acknowledged()
        return start.offset

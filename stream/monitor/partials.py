"""The monitors' own topic: what each has counted, for all of them to read."""

import asyncio

from stream.monitor.application import MonitorApp
from stream.monitor.records import Partial, encode_packed, key_of


class PartialsTopic:
    """Writes partials to the monitors' own topic.

    Args:
        app: the application.
        group: the monitors' group, whose name is part of the topic's.
        keep_ms: how long windows are kept.
    """

    def __init__(self, app: MonitorApp, group: str, keep_ms: int) -> None:
        self._topic = app.topic(
            f"{group}-fragments",
            partitions=1,
            replicas=app.conf.topic_replication_factor,
            internal=True,
            compacting=True,
            deleting=True,
            retention=2 * keep_ms / 1000 + 3600,
            key_serializer="raw",
            value_serializer="raw",
        )
        self.name: str = self._topic.get_topic_name()
        """The topic's name in Kafka."""

    async def declare(self) -> None:
        """Make the topic if it is missing."""
        await self._topic.maybe_declare()

    async def send(self, *partials: Partial) -> None:
        """Write partials, and wait until Kafka has them."""
        sent = [
            await self._topic.send(key=key_of(partial), value=encode_packed(partial), partition=0)
            for partial in partials
        ]
        await asyncio.gather(*sent)

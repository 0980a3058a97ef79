"""Reads, outside of the consumer group, what every monitor needs whole: partials, published records, updates."""

import asyncio
import time

from stream.errors import KafkaClientError
from stream.kafka.clients import to_record
from stream.kafka.reader import TopicReader
from stream.monitor.aggregate import Aggregate
from stream.monitor.records import decode_arm_window, decode_partial
from stream.runtime.closing import close_all
from stream.schema.events import DECODE_ERRORS
from stream.schema.topics import Topics
from stream.schema.update_headers import read_update_headers
from stream.settings import Settings

_POLL_S = 0.2
_WAIT_S = 30.0


class AggregateReader:
    """Keeps an aggregate up to date.

    Args:
        settings: the configuration.
        partials: the monitors' own topic.
        aggregate: is changed in the event loop only.

    Attributes:
        caught_up: whether the aggregate knows all that there was when reading began.
    """

    def __init__(self, settings: Settings, partials: str, aggregate: Aggregate) -> None:
        self._kafka = {key: value for key, value in settings.kafka.items() if key != "group.instance.id"}
        self._on_missing = settings.topics.on_missing_records
        self._topics = Topics(settings.topics.prefix)
        self._name = partials
        self._aggregate = aggregate
        self._tails: list[TopicReader] = []
        self._changes = -1
        self._changed_at = 0.0
        self.caught_up = False

    async def open_partials(self) -> None:
        """Begin, and read all partials that are there; the first thing to be done.

        Raises:
            KafkaClientError: when the topic cannot be read.
        """
        if not self._tails:
            self._tails.append(await self._opened_partials())
        while not self._tails[0].at_end():
            await self._read(self._tails[0])

    async def open(self) -> None:
        """Begin with the other topics, and read what was published of the windows that are kept.

        Raises:
            KafkaClientError: when a topic cannot be read.
        """
        since = min(self._aggregate.starts(), default=round(1000 * time.time()))
        published = await asyncio.to_thread(self._open, self._topics.experiment_metrics, since_ms=since)
        self._tails.append(published)
        while not published.at_end():
            await self._read(published)
        self._tails.append(await asyncio.to_thread(self._open, self._topics.model_updates))
        self.caught_up = True

    async def read(self, quiet_s: float) -> None:
        """Read what has come; windows are over when nothing new has come for `quiet_s`.

        Raises:
            KafkaClientError: when Kafka refuses this client.
        """
        for tail in self._tails:
            await self._read(tail)
        now = time.monotonic()
        if self._changes != self._aggregate.changes:
            self._changes, self._changed_at = self._aggregate.changes, now
        self._aggregate.set_idle(now - self._changed_at >= quiet_s)

    def close(self) -> None:
        """Stop reading."""
        close_all(tail.close for tail in self._tails)

    async def _read(self, tail: TopicReader) -> None:
        first = tail is self._tails[0]
        for message in await asyncio.to_thread(tail.read, _POLL_S if first else 0.0):
            record = to_record(message)
            value = record.value or b""
            try:
                if record.topic == self._name:
                    self._aggregate.add(decode_partial(value))
                elif record.topic == self._topics.experiment_metrics:
                    self._aggregate.add_published(decode_arm_window(value))
                elif (update := read_update_headers(message.headers())) is not None:
                    self._aggregate.add_update(update, record.timestamp)
            except DECODE_ERRORS:
                continue  # written by another version or program

    def _open(self, topic: str, *, from_beginning: bool = False, since_ms: int | None = None) -> TopicReader:
        return TopicReader(
            self._kafka, [topic], from_beginning=from_beginning, since_ms=since_ms, on_missing=self._on_missing
        )

    async def _opened_partials(self) -> TopicReader:
        """Begin to read a topic that may have been made a moment ago."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                return await asyncio.to_thread(self._open, self._name, from_beginning=True)
            except KafkaClientError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)

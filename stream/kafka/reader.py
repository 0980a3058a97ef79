"""Reads whole topics outside of any consumer group: for the trainer, model feeds, clients and drivers."""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from confluent_kafka import KafkaError, Message, TopicPartition

from stream.errors import KafkaClientError, TopicError
from stream.kafka.clients import consumer, to_record
from stream.kafka.connection import ConnectionHealth, is_final
from stream.kafka.identity import LogWatch
from stream.kafka.offsets import offset_for_time, watermarks, with_retries
from stream.kafka.removed import skip_removed

_logger = logging.getLogger("samstream.kafka")

_SILENT_S = 60.0
"""How long a reader waits for the rest of what was there when it began."""


class TopicReader:
    """Reads partitions of some topics, from their present ends on unless it is told to begin earlier.

    Args:
        kafka: librdkafka properties.
        topics: topic names; each must exist.
        from_beginning: begin with the oldest record.
        offsets: (topic, partition) → offset to begin at, for those named.
        back: begin so many records before the end.
        since_ms: begin with the first record of this time (ms since the epoch) or later.
        on_missing: when Kafka has removed records between an offset to go on from and its oldest record, at the start
            or while it reads: `stop`, or `skip` them, log and count them.
        watch: watches these topics since before `offsets` were compared with them; None for one of the reader's own.
        only: the partition numbers to read; all when None.

    Raises:
        KafkaClientError: for a topic that does not exist, an offset beyond its end, or removed records (`stop`).
        TopicError: for a topic that may not be described.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topics: Iterable[str],
        *,
        from_beginning: bool = False,
        offsets: Mapping[tuple[str, int], int] | None = None,
        back: int = 0,
        since_ms: int | None = None,
        on_missing: Literal["stop", "skip"] = "stop",
        watch: LogWatch | None = None,
        only: Collection[int] | None = None,
    ) -> None:
        # librdkafka wants a group id even where no group is joined and nothing is committed.
        own = {"group.id": "samstream-reader", "enable.partition.eof": "true"}
        self._on_missing = on_missing
        self._health = ConnectionHealth(kafka)
        self._consumer = consumer(kafka, own, self._health)
        self.positions: dict[tuple[str, int], int] = {}
        """(topic, partition) → the next offset to be read."""
        self.timestamps: dict[tuple[str, int], int] = {}
        """(topic, partition) → the Kafka timestamp (ms) of the last record that was read."""
        self.missing = 0
        """Records that Kafka had removed before they could be read."""
        self.removed: dict[tuple[str, int], int] = {}
        """(topic, partition) → the first offset that Kafka has, where reading begins there and Kafka removed others."""
        self._ends: dict[tuple[str, int], int] = {}
        partitions = {topic: self._partitions(topic) for topic in topics}
        self._single = len(partitions) == 1
        self._watch = watch or LogWatch(kafka)
        self.logs = self._watch.logs or self._watch.begin(partitions)
        """Topic → which log is read."""
        for topic, numbers in partitions.items():
            for partition in numbers if only is None else sorted(only):
                low, high = watermarks(self._consumer, topic, partition)
                if since_ms is not None:
                    begin = offset_for_time(self._consumer, topic, partition, since_ms, high)
                else:
                    begin = low if from_beginning else high - back
                begin = (offsets or {}).get((topic, partition), begin)
                if begin > high:
                    raise KafkaClientError(
                        f"{topic}/{partition} ends at {high}, before the offset {begin} to go on from: the topic was"
                        " recreated. Move what was kept of it (checkpoints, state) away to start afresh."
                    )
                if (topic, partition) in (offsets or {}) and begin < low:
                    self._miss(topic, partition, begin, low)
                self.positions[topic, partition] = max(low, begin)
                if begin <= low > 0:
                    self.removed[topic, partition] = low
                self._ends[topic, partition] = high
        self._consumer.assign(
            [TopicPartition(topic, partition, offset) for (topic, partition), offset in self.positions.items()]
        )

    def read(self, timeout_s: float, *, limit: int = 1000, fill: bool = False) -> list[Message]:
        """Return what has come, at most `limit` messages; waits up to `timeout_s` for the first.

        Args:
            timeout_s: how long to wait.
            limit: the most messages.
            fill: whether to wait for as many as `limit`, not only for the first.

        Raises:
            KafkaClientError: when Kafka refuses this client, or no longer has the next record (`stop`).
            TopicError: when a topic was recreated, or has another number of partitions.
        """
        self._health.check()
        self._check_logs()
        messages = self._consumer.consume(limit, timeout_s if fill else 0)
        if not messages and not fill and (first := self._consumer.poll(timeout_s)) is not None:
            messages = [first, *self._consumer.consume(limit - 1, 0)]
        if messages:
            self._health.mark_reachable()
        failed = [message for message in messages if message.error() is not None]
        records = [message for message in messages if message.error() is None] if failed else messages
        self._advance(records)
        for message in failed:
            self._take_error(message)
        # An error may be of an earlier assignment, which went on behind the removed records. One without an offset says
        # that the client could not check its own.
        missed = dict(_missed_offsets(failed))
        if lost := {where: at is not None for where, at in missed.items() if at in (None, self.positions[where])}:
            self._go_on(lost)
        return records

    def read_to_end(self, *, silent_s: float = _SILENT_S) -> Iterator[list[Message]]:
        """Yield what comes until everything is read that was there when reading began; now and then an empty list.

        Raises:
            KafkaClientError: as `read` does, and when nothing comes for `silent_s` before the end.
            TopicError: as `read` does.
        """
        came_at, position = time.monotonic(), dict(self.positions)
        while not self.at_end():
            yield self.read(1.0)
            now = time.monotonic()
            if self.positions != position:
                came_at, position = now, dict(self.positions)
            elif now - came_at > silent_s:
                topics = ", ".join(sorted({topic for topic, _ in self.positions}))
                raise KafkaClientError(
                    f"no record of {topics} came for {silent_s:.0f} s, and {self.left()} are not read: was it deleted,"
                    " or is Kafka away?"
                )

    def at_end(self) -> bool:
        """Return whether everything is read that was there when reading began."""
        return all(self.positions[where] >= end for where, end in self._ends.items())

    def left(self) -> int:
        """Return how many offsets are not read yet of those that were there when reading began."""
        return sum(max(0, end - self.positions[where]) for where, end in self._ends.items())

    def lag(self) -> int:
        """Return how many records wait, as far as the client has heard."""
        waiting = 0
        for (topic, partition), position in self.positions.items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            waiting += max(0, high - position)
        return waiting

    def ask_end(self, topic: str, partition: int) -> int:
        """Ask Kafka where a partition ends now.

        Raises:
            KafkaClientError: when Kafka refuses to say; `KafkaSilentError` when it does not answer at once.
        """
        return watermarks(self._consumer, topic, partition, wait_s=0.0)[1]

    def pause(self, topic: str, partition: int) -> None:
        """Read nothing more of a partition until `resume`."""
        self._consumer.pause([TopicPartition(topic, partition)])

    def resume(self, topic: str, partition: int) -> None:
        """Read a paused partition on from its position."""
        self._consumer.resume([TopicPartition(topic, partition)])

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _advance(self, records: Iterable[Message]) -> None:
        """Take note of where reading stands after some records.

        Only the last one of each partition is asked for more than its place: the trainer reads 100,000 behaviours a
        second beside its learning.
        """
        last: dict[Any, Message]
        if self._single:
            last = {record.partition(): record for record in records}
        else:
            last = {(record.topic(), record.partition()): record for record in records}
        for message in last.values():
            record = to_record(message)
            where = record.topic, record.partition
            self.positions[where] = record.offset + 1
            self.timestamps[where] = record.timestamp

    def _take_error(self, message: Message) -> None:
        """Take note of the end of a partition; raise what is final."""
        error = message.error()
        assert error is not None
        if error.code() == KafkaError._PARTITION_EOF:
            # Beyond the last record where transaction markers follow it.
            where = message.topic() or "", message.partition() or 0
            self.positions[where] = max(self.positions[where], message.offset() or 0)
        elif is_final(error):
            raise KafkaClientError(f"{message.topic()}: {error.str()}")

    def _partitions(self, topic: str) -> list[int]:
        listed = with_retries(partial(self._consumer.list_topics, topic, timeout=5.0), f"topic {topic}")
        known = listed.topics[topic]
        if known.error is not None:
            raise KafkaClientError(f"topic {topic}: {known.error.str()}; `samstream topics create` makes it")
        return list(known.partitions)

    def _check_logs(self) -> None:
        found = self._watch.check(
            time.monotonic(),
            lambda: ((*where, offset, self.timestamps.get(where, -1)) for where, offset in self.positions.items()),
        )
        if found is not None:
            topic, difference = found
            what = "has another number of partitions now" if difference == "partitions" else "was recreated"
            raise TopicError(f"{topic} {what}, while it was read. Start again: what the topic has now is read.")

    def _go_on(self, partitions: Mapping[tuple[str, int], bool]) -> None:
        """Go on in partitions whose next offset Kafka does not have, behind the removed records if that is allowed.

        For those where that is not sure (False), Kafka is asked; where it has the offset, it is read again.
        """
        for (topic, partition), sure in partitions.items():
            low, high = watermarks(self._consumer, topic, partition)
            position = self.positions[topic, partition]
            if not sure and low <= position <= high:
                continue
            if position >= low:  # beyond the end, or it was until a moment ago
                raise TopicError(
                    f"{topic}/{partition} had no offset {position} to go on from (now it has {low} to {high}): the"
                    " topic was recreated, or has lost its end, while it was read. Start again: what the topic has now"
                    " is read."
                )
            self._miss(topic, partition, position, low)
            self.positions[topic, partition] = low
        self._consumer.assign([TopicPartition(*where, offset) for where, offset in self.positions.items()])

    def _miss(self, topic: str, partition: int, position: int, low: int) -> None:
        self.missing += skip_removed(
            self._on_missing, topic, partition, reached=position, oldest=low, error=KafkaClientError, logger=_logger
        )


def _missed_offsets(messages: Iterable[Message]) -> Iterator[tuple[tuple[str, int], int | None]]:
    """Yield topic and partition with the offset that was asked for, where Kafka does not have it."""
    for message in messages:
        error = message.error()
        if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
            yield (message.topic() or "", message.partition() or 0), message.offset()

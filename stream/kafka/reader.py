"""Reads whole topics outside of any consumer group: for the trainer, model feeds, clients and drivers."""

from collections.abc import Iterable, Mapping
from functools import partial

from confluent_kafka import KafkaError, Message, TopicPartition

from stream.errors import KafkaClientError
from stream.kafka.clients import consumer, to_record
from stream.kafka.connection import ConnectionHealth, is_final
from stream.kafka.offsets import offset_for_time, watermarks, with_retries


class TopicReader:
    """Reads all partitions of some topics, from their present ends on unless it is told to begin earlier.

    Args:
        kafka: librdkafka properties.
        topics: topic names; each must exist.
        from_beginning: begin with the oldest record.
        offsets: (topic, partition) → offset to begin at, for those named.
        back: begin so many records before the end.
        since_ms: begin with the first record of this time (ms since the epoch) or later.

    Raises:
        KafkaClientError: for a topic that does not exist, or an offset beyond its end.
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
    ) -> None:
        # librdkafka wants a group id even where no group is joined and nothing is committed.
        own = {"group.id": "samstream-tail", "enable.partition.eof": "true"}
        self._health = ConnectionHealth(kafka)
        self._consumer = consumer(kafka, own, self._health)
        self.positions: dict[tuple[str, int], int] = {}
        """(topic, partition) → the next offset to be read."""
        self.removed: dict[tuple[str, int], int] = {}
        """(topic, partition) → the first offset that Kafka has, where reading begins there and Kafka removed others."""
        self._ends: dict[tuple[str, int], int] = {}
        for topic in topics:
            listed = with_retries(partial(self._consumer.list_topics, topic, timeout=5.0), f"topic {topic}")
            known = listed.topics[topic]
            if known.error is not None:
                raise KafkaClientError(f"topic {topic}: {known.error.str()}; `samstream topics create` makes it")
            for partition in known.partitions:
                low, high = watermarks(self._consumer, topic, partition)
                if since_ms is not None:
                    begin = offset_for_time(self._consumer, topic, partition, since_ms, high)
                else:
                    begin = low if from_beginning else high - back
                begin = (offsets or {}).get((topic, partition), begin)
                if begin > high:
                    raise KafkaClientError(
                        f"{topic}/{partition} ends at {high}, before the offset {begin} to go on from: the topic was"
                        " made anew. Move what was kept of it (checkpoints, state) away to start afresh."
                    )
                self.positions[topic, partition] = max(low, begin)
                if begin <= low > 0:
                    self.removed[topic, partition] = low
                self._ends[topic, partition] = high
        self._consumer.assign(
            [TopicPartition(topic, partition, offset) for (topic, partition), offset in self.positions.items()]
        )

    def read(self, timeout_s: float, *, limit: int = 1000) -> list[Message]:
        """Return what has come, at most `limit` messages; waits up to `timeout_s` for the first.

        Raises:
            KafkaClientError: when Kafka refuses this client.
        """
        self._health.check()
        messages = self._consumer.consume(limit, 0)
        if not messages and (first := self._consumer.poll(timeout_s)) is not None:
            messages = [first, *self._consumer.consume(limit - 1, 0)]
        if messages:
            self._health.mark_reachable()
        return [message for message in messages if self._advance(message)]

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

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _advance(self, message: Message) -> bool:
        """Take note of where reading stands; says whether the message is a record."""
        error = message.error()
        if error is None:
            record = to_record(message)
            self.positions[record.topic, record.partition] = record.offset + 1
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            # Beyond the last record where transaction markers follow it.
            where = message.topic() or "", message.partition() or 0
            self.positions[where] = max(self.positions[where], message.offset() or 0)
        elif is_final(error):
            raise KafkaClientError(f"{message.topic()}: {error.str()}")
        return False

"""A reader of topics from where they end now, outside of any consumer group: for clients, drivers and monitors."""

from collections.abc import Iterable, Mapping
from functools import partial

from confluent_kafka import Message, TopicPartition

from stream.errors import KafkaClientError
from stream.kafka import consumer, retried, to_record, watermarks


class Tail:
    """Reads all partitions of some topics, from their present ends on, from their beginnings, or from given offsets.

    Args:
        kafka: librdkafka properties.
        topics: topic names; each must exist.
        from_beginning: read what the topics hold already as well.
        offsets: (topic, partition) → offset to begin at; those not named begin as `from_beginning` says.
        back: begin so many records before the end.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topics: Iterable[str],
        *,
        from_beginning: bool = False,
        offsets: Mapping[tuple[str, int], int] | None = None,
        back: int = 0,
    ) -> None:
        # librdkafka wants a group id even where no group is joined and nothing is committed.
        self._consumer = consumer(kafka, {"group.id": "samstream-tail"})
        self.positions: dict[tuple[str, int], int] = {}
        """(topic, partition) → the next offset to be read."""
        self._ends: dict[tuple[str, int], int] = {}
        for topic in topics:
            listed = retried(partial(self._consumer.list_topics, topic, timeout=5.0), f"topic {topic}")
            known = listed.topics[topic]
            if known.error is not None:
                raise KafkaClientError(f"topic {topic}: {known.error.str()}; `samstream topics create` makes it")
            for partition in known.partitions:
                low, high = watermarks(self._consumer, topic, partition)
                start = low if from_beginning else high - back
                self.positions[topic, partition] = max(low, (offsets or {}).get((topic, partition), start))
                self._ends[topic, partition] = high
        self._consumer.assign(
            [TopicPartition(topic, partition, offset) for (topic, partition), offset in self.positions.items()]
        )

    def read(self, timeout_s: float, *, limit: int = 1000) -> list[Message]:
        """Return what has come, at most `limit` messages; waits up to `timeout_s` for the first."""
        messages = self._consumer.consume(limit, 0)
        if not messages and (first := self._consumer.poll(timeout_s)) is not None:
            messages = [first, *self._consumer.consume(limit - 1, 0)]
        good = [message for message in messages if message.error() is None]
        for message in good:
            record = to_record(message)
            self.positions[record.topic, record.partition] = record.offset + 1
        return good

    def at_end(self) -> bool:
        """Say whether everything is read that was there when reading began."""
        return all(self.positions[where] >= end for where, end in self._ends.items())

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

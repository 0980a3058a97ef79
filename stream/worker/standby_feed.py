"""Brings standby copies what their partitions' owners have committed."""

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from stream.kafka.clients import to_batches
from stream.kafka.identity import compare
from stream.kafka.offsets import committed_offsets, metadata_of
from stream.schema.position import LogIdentity, decode_origin
from stream.task.paced_fold import PacedFold

_READ_S = 0.1
_BATCH = 2_000
_MOST_WAITING = 20_000


class StandbyFeed:
    """Reads `behaviors` for the copies, up to what the partitions' owners have committed.

    Args:
        consumer: of the workers' group, which it does not join.
        topic: `behaviors`.
    """

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._read_by: dict[int, PacedFold] = {}
        self._paused: set[int] = set()
        self._committed: dict[int, int] = {}

    def ask(self, copies: Mapping[int, PacedFold]) -> None:
        """Ask what the owners have committed; nothing where that is of another log than the copy's.

        Raises:
            KafkaClientError: when Kafka does not answer.
        """
        if copies:
            found = committed_offsets(self._consumer, self._topic, copies)
            self._committed = {each.partition: self._believed(each, copies[each.partition].log) for each in found}

    def behind(self, number: int, copy: PacedFold) -> int:
        """Return how many records the owner of a partition has committed that its copy has not folded."""
        return max(0, self._committed.get(number, 0) - copy.offset)

    def read(self, copies: dict[int, PacedFold]) -> list[int]:
        """Read on, and fold; returns the partitions that cannot be read on."""
        if copies != self._read_by:
            self._read_by = dict(copies)
            self._paused.clear()
            self._consumer.assign([TopicPartition(self._topic, number, copy.next) for number, copy in copies.items()])
        if not copies:
            return []
        ended = []
        messages = self._consumer.consume(_BATCH, _READ_S)
        for message in messages:
            if (error := message.error()) is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
                ended.append(-1 if (number := message.partition()) is None else number)
        for batch in to_batches([message for message in messages if message.error() is None]):
            if (copy := copies.get(batch.partition)) is not None:
                copy.add(batch)
        for number, copy in copies.items():
            copy.fold(self._committed.get(number, 0))
            self._pace(number, copy.waiting)
        return ended

    def _believed(self, known: TopicPartition, log: LogIdentity) -> int:
        origin = decode_origin(metadata_of(known)) if known.offset > 0 else None
        if origin is None:
            return int(known.offset)
        # Where there are topic ids they tell, without a question for each copy.
        by_id = bool(origin.log.topic_id and log.topic_id)
        differs = (
            origin.difference(log) if by_id else compare(self._consumer, origin, log, known.partition, known.offset)
        )
        return 0 if differs else int(known.offset)

    def _pace(self, number: int, waiting: int) -> None:
        """Pause a partition whose owner is far behind what was read."""
        where = [TopicPartition(self._topic, number)]
        if waiting > _MOST_WAITING and number not in self._paused:
            self._paused.add(number)
            self._consumer.pause(where)
        elif waiting < _MOST_WAITING // 2 and number in self._paused:
            self._paused.remove(number)
            self._consumer.resume(where)

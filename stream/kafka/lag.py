"""How far a consumer group is behind, as Kafka knows it."""

from collections.abc import Mapping

from confluent_kafka import TopicPartition

from stream.kafka.clients import consumer, retried, watermarks


class Lag:
    """Looks at a group from outside, without joining it; a Kafka that is busy is waited for, `wait_s` a question."""

    def __init__(self, kafka: Mapping[str, str], group: str, *, wait_s: float = 30.0) -> None:
        self._wait_s = wait_s
        self._consumer = consumer(kafka, {"group.id": group})

    def of(self, topic: str, partitions: int) -> int:
        """Return how many records of a topic the group has not committed yet.

        Raises:
            KafkaClientError: when Kafka does not say.
        """
        asked = [TopicPartition(topic, number) for number in range(partitions)]
        what = f"committed offsets of {topic}"
        committed = retried(lambda: self._consumer.committed(asked, timeout=5.0), what, wait_s=self._wait_s)
        behind = 0
        for known in committed:
            low, high = watermarks(self._consumer, topic, known.partition, wait_s=self._wait_s)
            behind += high - max(low, known.offset)
        return behind

    def close(self) -> None:
        """Stop looking."""
        self._consumer.close()

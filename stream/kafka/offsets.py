"""Offsets as Kafka knows them: ends of partitions, offsets by time, a group's lag."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.errors import KafkaClientError
from stream.kafka.clients import consumer

T = TypeVar("T")

_WAIT_S = 30.0
_RETRY_S = 0.2

_TRANSIENT = {
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._WAIT_COORD,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
"""Errors that pass: brokers start, stop and change leadership. A topic may be unknown for a moment."""


def with_retries(ask: Callable[[], T], what: str, *, wait_s: float = _WAIT_S) -> T:
    """Call `ask`, again while Kafka answers with transient errors: leaders move, brokers restart.

    Raises:
        KafkaClientError: when there is no answer within `wait_s`, or a lasting error; names `what`.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except KafkaException as problem:
            error: KafkaError = problem.args[0]
            if error.code() not in _TRANSIENT:
                raise KafkaClientError(f"{what}: {error.str()}") from None
            if time.monotonic() > deadline:
                raise KafkaClientError(f"{what}: no answer from Kafka for {wait_s:.0f} s: {error.str()}") from None
            time.sleep(_RETRY_S)


def watermarks(client: Consumer, topic: str, partition: int, *, wait_s: float = _WAIT_S) -> tuple[int, int]:
    """Return the low and the high watermark of a partition: its first offset, and the one behind its last.

    Raises:
        KafkaClientError: when Kafka does not say within `wait_s`.
    """
    where, what = TopicPartition(topic, partition), f"offsets of {topic}/{partition}"
    found = with_retries(lambda: client.get_watermark_offsets(where, timeout=5.0), what, wait_s=wait_s)
    if found is None:
        raise KafkaClientError(f"offsets of {topic}/{partition}: no answer")
    low, high = found
    return low, high


def offset_for_time(client: Consumer, topic: str, partition: int, time_ms: int, end: int) -> int:
    """Return the first offset of a partition from a time (ms since the epoch) on; `end` when nothing is so young.

    Raises:
        KafkaClientError: when Kafka does not say.
    """
    asked = [TopicPartition(topic, partition, time_ms)]
    what = f"offset of {topic}/{partition} by time"
    [found] = with_retries(lambda: client.offsets_for_times(asked, timeout=5.0), what)
    if found.error is not None:
        raise KafkaClientError(f"{what}: {found.error.str()}")
    return found.offset if found.offset >= 0 else end


class GroupLag:
    """The lag of a consumer group, seen without joining it; each request waits up to `wait_s` for Kafka."""

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
        committed = with_retries(lambda: self._consumer.committed(asked, timeout=5.0), what, wait_s=self._wait_s)
        behind = 0
        for known in committed:
            low, high = watermarks(self._consumer, topic, known.partition, wait_s=self._wait_s)
            behind += high - max(low, known.offset)
        return behind

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()

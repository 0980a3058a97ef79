"""Offsets as Kafka knows them: ends of partitions, offsets by time, a group's lag."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.errors import KafkaClientError, KafkaSilentError
from stream.kafka.clients import consumer

T = TypeVar("T")

_WAIT_S = 30.0
_ANSWER_S = 5.0
_RETRY_S = 0.2

_LASTING = {
    KafkaError._DESTROY,
    KafkaError._FATAL,
    KafkaError._INVALID_ARG,
    KafkaError._STATE,
    KafkaError._CONFLICT,
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError._NOT_IMPLEMENTED,
    KafkaError._UNSUPPORTED_FEATURE,
}
"""What librdkafka says of this client or its properties; all else that it says of its own means: no answer yet."""

_TRANSIENT = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
}
"""Brokers' errors that pass: they start, stop and change leadership. A topic may be unknown for a moment."""

_LEADERLESS = {
    KafkaError._DESTROY_BROKER,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}
"""What a client says of a partition that had no leader, or another one, when it last heard of it."""


def with_retries(ask: Callable[[], T], what: str, *, wait_s: float = _WAIT_S) -> T:
    """Call `ask`, again while Kafka answers with transient errors: leaders move, brokers restart.

    Raises:
        KafkaSilentError: when there is no answer within `wait_s`.
        KafkaClientError: for a lasting error; both name `what`.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except KafkaException as problem:
            error: KafkaError = problem.args[0]
            if not _passes(error.code()):
                raise KafkaClientError(f"{what}: {error.str()}") from None
            if time.monotonic() > deadline:
                raise KafkaSilentError(f"{what}: no answer from Kafka for {wait_s:.0f} s: {error.str()}") from None
            time.sleep(_RETRY_S)


def _passes(code: int) -> bool:
    """Say whether an error may be gone when Kafka is asked again. Codes below 0 are librdkafka's own."""
    return code not in _LASTING if code < 0 else code in _TRANSIENT


def watermarks(
    client: Consumer, topic: str, partition: int, *, wait_s: float = _WAIT_S, answer_s: float = _ANSWER_S
) -> tuple[int, int]:
    """Return the low and the high watermark of a partition: its first offset, and the one behind its last.

    Args:
        client: the consumer that asks.
        topic: the topic.
        partition: the partition number.
        wait_s: for how long (s) it asks again; 0 to ask once.
        answer_s: how long (s) each request waits.

    Raises:
        KafkaClientError: when Kafka does not say within `wait_s`.
    """
    where, what = TopicPartition(topic, partition), f"offsets of {topic}/{partition}"

    def ask() -> tuple[int, int]:
        found = client.get_watermark_offsets(where, timeout=answer_s)
        if found is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        low, high = found
        return low, high

    return with_retries(partial(_ask_again_for_leader, client, topic, ask, answer_s), what, wait_s=wait_s)


def offset_for_time(client: Consumer, topic: str, partition: int, time_ms: int, end: int) -> int:
    """Return the first offset of a partition from a time (ms since the epoch) on; `end` when nothing is so young.

    Raises:
        KafkaClientError: when Kafka does not say.
    """

    def ask() -> int:
        [found] = client.offsets_for_times([TopicPartition(topic, partition, time_ms)], timeout=_ANSWER_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return int(found.offset)

    offset = with_retries(partial(_ask_again_for_leader, client, topic, ask), f"offset of {topic}/{partition} by time")
    return offset if offset >= 0 else end


def committed_offsets(
    client: Consumer, topic: str, partitions: Iterable[int], *, wait_s: float = _WAIT_S
) -> list[TopicPartition]:
    """Return the committed offsets of the client's group; an offset below 0 says that there is none.

    Raises:
        KafkaClientError: when Kafka does not say within `wait_s`.
    """
    asked = [TopicPartition(topic, number) for number in partitions]

    def ask() -> list[TopicPartition]:
        found: list[TopicPartition] = client.committed(asked, timeout=_ANSWER_S)
        for each in found:
            if each.error is not None:
                raise KafkaException(each.error)
        return found

    return with_retries(ask, f"committed offsets of {topic}", wait_s=wait_s)


def metadata_of(known: TopicPartition) -> str | None:
    """Return the metadata of a committed offset; None for none, and for what is no text.

    Of metadata that another client has committed, librdkafka may read on behind its end (librdkafka#4649).
    """
    try:
        text: str | None = known.metadata
    except UnicodeDecodeError:
        return None
    return text


def _ask_again_for_leader(client: Consumer, topic: str, ask: Callable[[], T], answer_s: float = _ANSWER_S) -> T:
    """Call `ask`; where it fails for want of a leader, ask for the topic's leaders before the error is raised.

    librdkafka keeps what it has heard of a topic that it does not consume for minutes, also that a partition has no
    leader, and answers out of that.
    """
    try:
        return ask()
    except KafkaException as problem:
        if problem.args[0].code() in _LEADERLESS:
            client.list_topics(topic, timeout=answer_s)
        raise


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
        return sum(self.by_partition(topic, partitions).values())

    def by_partition(self, topic: str, partitions: int) -> dict[int, int]:
        """Return the same for each partition; raises as `of`."""
        behind = {}
        for known in committed_offsets(self._consumer, topic, range(partitions), wait_s=self._wait_s):
            low, high = watermarks(self._consumer, topic, known.partition, wait_s=self._wait_s)
            behind[known.partition] = high - max(low, known.offset)
        return behind

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()

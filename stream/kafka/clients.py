"""librdkafka clients as samstream uses them: what is ours by default, and how their errors are said."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, TopicMetadata  # type: ignore[attr-defined]

from stream.errors import KafkaClientError, SettingsError
from stream.kafka.connection import Hearing
from stream.runtime.logs import log
from stream.schema.record import Record

_logger = logging.getLogger("samstream.kafka")
# One [kafka] section serves producers and consumers: that each ignores some of the other's properties is no news. Nor
# is what a broker says while it starts.
_NOISE = ("will be ignored by this", "Coordinator load in progress: retrying")
_logger.addFilter(lambda record: not any(noise in record.getMessage() for noise in _NOISE))

T = TypeVar("T")

_BATCH_BYTES = 1_000_000
"""librdkafka's own limit of a batch, and of a record."""
_WAIT_S = 30.0
_TELL_S = 5.0
_RETRY_S = 0.2
_ANSWER_S = 2.0

_PASSING = {
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
"""What Kafka says while brokers start, stop and change places. A topic may be unknown for a moment."""

_CONSUMER = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "auto.offset.reset": "earliest",
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "range",
    "session.timeout.ms": "10000",
    # Members hear of a rebalance with their next heartbeat, and until all have heard of it nobody works.
    "heartbeat.interval.ms": "500",
    "queued.max.messages.kbytes": "65536",
    # The embedded broker ignores the fetch limits; the client must then not refuse what it is sent.
    "receive.message.max.bytes": "1000000000",
}

_PRODUCER = {
    "enable.idempotence": "true",
    "compression.type": "lz4",
    "linger.ms": "1",
    # A broker that is away is waited for; giving up would lose what the offsets already passed.
    "message.timeout.ms": "0",
    "partitioner": "murmur2_random",
}


def consumer(kafka: Mapping[str, str], own: Mapping[str, str], hearing: Hearing | None = None) -> Consumer:
    """Return a consumer: our defaults, then the user's properties, then what the caller's job needs (`own`).

    What it says of its connections goes to `hearing`, or only to the log. Of our defaults, `settings.RESERVED` are not
    for the user to change.

    Raises:
        SettingsError: when librdkafka does not take the properties.
    """
    return made(Consumer, {**_CONSUMER, **kafka, **own, "error_cb": hearing or Hearing(kafka)}, logger=_logger)


def made(kind: Callable[..., T], properties: Mapping[str, Any], **more: Any) -> T:
    """Return a librdkafka client of some kind.

    Raises:
        SettingsError: when librdkafka does not take the properties.
    """
    try:
        return kind(dict(properties), **more)
    except (KafkaException, TypeError, ValueError) as error:
        first = error.args[0]
        said = first.str() if isinstance(first, KafkaError) else first
        raise SettingsError(f"the [kafka] settings cannot be used: {said}") from None


def to_record(message: Message) -> Record:
    """Return a consumed message as a plain value."""
    # A message without an error has them all.
    return Record(
        message.topic(),  # type: ignore[arg-type]
        message.partition(),  # type: ignore[arg-type]
        message.offset(),  # type: ignore[arg-type]
        message.timestamp()[1],
        message.key(),
        message.value(),
    )


class Sender:
    """An idempotent producer that waits when its buffer is full and remembers a delivery that failed.

    Args:
        kafka: librdkafka properties.
        limits: topic → the largest batch that Kafka takes there, bytes. Batches are kept within the smallest, since a
            batch that is too large is refused with all its records.
    """

    def __init__(self, kafka: Mapping[str, str], limits: Mapping[str, int] = MappingProxyType({})) -> None:
        self._hearing = Hearing(kafka)
        batch = min([int(kafka.get("batch.size", _BATCH_BYTES)), *limits.values()])
        properties = {**_PRODUCER, **kafka, "batch.size": str(batch), "error_cb": self._hearing}
        self._producer = made(Producer, properties, logger=_logger)
        self._limits = limits
        self._failure: str | None = None
        self._told = 0.0

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | str | None = None,
        partition: int = -1,
        headers: list[tuple[str, str | bytes | None]] | None = None,
        on_delivery: Callable[[Message], None] | None = None,
    ) -> None:
        """Hand a record over; blocks while the buffer is full, and says so when that takes long.

        Raises:
            KafkaClientError: when the record can never be sent, an earlier one was not, or Kafka refuses this client.
        """
        size = len(value or b"")
        began = time.monotonic()

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self._hearing.answered()
                if on_delivery is not None:
                    on_delivery(message)
            elif self._failure is None:
                self._failure = f"Kafka did not take {self._said(topic, size, error)}"

        while True:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=delivered, headers=headers)
                break
            except BufferError:
                self.poll(0.1)
                self._tell(began)
            except KafkaException as error:
                raise KafkaClientError(f"cannot send {self._said(topic, size, error.args[0])}") from None
        self.poll()

    def limit(self, topic: str) -> int:
        """Return the largest record that Kafka takes in a topic, bytes, with what belongs to it; a guess if unknown."""
        return min(self._limits.get(topic, _BATCH_BYTES), _BATCH_BYTES)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports; waits up to `timeout_s` for the first.

        Raises:
            KafkaClientError: when a record could not be delivered, or Kafka refuses this client.
        """
        self._producer.poll(timeout_s)
        if self._failure is not None:
            raise KafkaClientError(self._failure)
        self._hearing.check()

    @property
    def waiting(self) -> int:
        """Records that Kafka has not acknowledged yet."""
        return len(self._producer)

    def flush(self) -> None:
        """Wait until Kafka has acknowledged everything, however long that takes; says so when it takes long.

        Raises:
            KafkaClientError: when a record could not be delivered, or Kafka refuses this client.
        """
        began = time.monotonic()
        while self._producer.flush(_TELL_S):
            self.poll()
            self._tell(began)
        self.poll()

    def _tell(self, began: float) -> None:
        """Say that Kafka is waited for, at most every `_TELL_S`, when that began so long ago."""
        now = time.monotonic()
        if now - max(began, self._told) >= _TELL_S:
            self._told = now
            log(_logger, "waiting_for_broker", logging.WARNING, records=self.waiting, seconds=round(now - began))

    def _said(self, topic: str, size: int, error: KafkaError) -> str:
        said = f"a record of {size} bytes for {topic}: {error.str()}"
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            return said
        known = f", {self._limits[topic]} bytes when this program started" if topic in self._limits else ""
        return (
            f"{said}. Raise the topic's max.message.bytes{known} (and kafka.message.max.bytes here for more than 1 MB),"
            " then start again: nothing that was committed is lost"
        )


def listed(client: AdminClient, hearing: Hearing, deadline: float) -> Mapping[str, TopicMetadata]:
    """Return the topics by name; waits for a Kafka that starts, until `deadline` (monotonic clock).

    Raises:
        KafkaClientError: as soon as Kafka refuses this client, and when it has not answered by the deadline.
    """
    while True:
        with suppress(KafkaException):
            return client.list_topics(timeout=max(0.1, min(_ANSWER_S, deadline - time.monotonic()))).topics
        client.poll(0)
        if hearing.refused or time.monotonic() > deadline:
            raise hearing.failure()
        time.sleep(_RETRY_S)


def admin(kafka: Mapping[str, str], hearing: Hearing) -> AdminClient:
    """Return an admin client that leaves it to its caller to say what it hears.

    Raises:
        SettingsError: when librdkafka does not take the properties.
    """
    return made(AdminClient, {**kafka, "error_cb": hearing, "log_level": "0"})


def reach(kafka: Mapping[str, str], *, wait_s: float = _WAIT_S) -> None:
    """See that Kafka answers and takes the credentials.

    Raises:
        SettingsError: when librdkafka does not take the properties.
        KafkaClientError: as soon as Kafka refuses them, and when it has not answered within `wait_s`.
    """
    hearing = Hearing(kafka, aloud=False)
    listed(admin(kafka, hearing), hearing, time.monotonic() + wait_s)


def retried(ask: Callable[[], T], what: str, *, wait_s: float = _WAIT_S) -> T:
    """Ask Kafka, again while it says that asking again may help: leaders move, brokers restart.

    Raises:
        KafkaClientError: when there is no answer within `wait_s`, or a final one; says what was asked.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except KafkaException as problem:
            error: KafkaError = problem.args[0]
            if error.code() not in _PASSING:
                raise KafkaClientError(f"{what}: {error.str()}") from None
            if time.monotonic() > deadline:
                raise KafkaClientError(f"{what}: no answer from Kafka for {wait_s:.0f} s: {error.str()}") from None
            time.sleep(_RETRY_S)


def watermarks(client: Consumer, topic: str, partition: int, *, wait_s: float = _WAIT_S) -> tuple[int, int]:
    """Return the first offset of a partition that Kafka has, and the one behind the last.

    Raises:
        KafkaClientError: when Kafka does not say within `wait_s`.
    """
    where, what = TopicPartition(topic, partition), f"offsets of {topic}/{partition}"
    found = retried(lambda: client.get_watermark_offsets(where, timeout=5.0), what, wait_s=wait_s)
    if found is None:
        raise KafkaClientError(f"offsets of {topic}/{partition}: no answer")
    low, high = found
    return low, high


def offset_at(client: Consumer, topic: str, partition: int, time_ms: int, end: int) -> int:
    """Return the first offset of a partition from a time (ms since the epoch) on; `end` when nothing is so young.

    Raises:
        KafkaClientError: when Kafka does not say.
    """
    asked = [TopicPartition(topic, partition, time_ms)]
    what = f"offset of {topic}/{partition} by time"
    [found] = retried(lambda: client.offsets_for_times(asked, timeout=5.0), what)
    if found.error is not None:
        raise KafkaClientError(f"{what}: {found.error.str()}")
    return found.offset if found.offset >= 0 else end

"""A producer that loses nothing: idempotent, waits for a broker that is away, reports what was refused."""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from stream.errors import KafkaClientError
from stream.kafka.clients import make_client, statistics
from stream.kafka.connection import ConnectionHealth, error_text, is_unknown_topic

_BATCH_BYTES = 1_000_000
"""librdkafka's own limit of a batch, and of a record."""
_WAIT_NOTED_S = 5.0
_PRODUCER = {
    "enable.idempotence": "true",
    "compression.type": "lz4",
    "linger.ms": "1",
    # A broker that is away is waited for; giving up would lose what the offsets already passed.
    "message.timeout.ms": "0",
    "partitioner": "murmur2_random",
}


class ReliableProducer:
    """An idempotent producer that waits when its buffer is full, and raises when a delivery has failed.

    Args:
        kafka: librdkafka properties.
        limits: topic → the largest batch that Kafka takes there, bytes. Batches are kept within the smallest, since a
            batch that is too large is refused with all its records.
    """

    def __init__(self, kafka: Mapping[str, str], limits: Mapping[str, int] = MappingProxyType({})) -> None:
        self._health = ConnectionHealth(kafka)
        batch = min([int(kafka.get("batch.size", _BATCH_BYTES)), *limits.values()])
        self._producer = make_client(
            Producer, {**_PRODUCER, **kafka, "batch.size": str(batch), **statistics(self._health)}, self._health
        )
        self._limits = limits
        self._failure: str | None = None
        self._noted_at = 0.0

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
        """Send a record; blocks while the buffer is full.

        Raises:
            KafkaClientError: when the record can never be sent, an earlier one was not, or Kafka refuses this client.
        """
        self._check()
        size = len(value or b"")
        began = time.monotonic()

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self._health.mark_reachable()
                if on_delivery is not None:
                    on_delivery(message)
            elif self._failure is None:
                self._failure = f"Kafka did not take {self._describe(topic, size, error)}"

        while True:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=delivered, headers=headers)
                break
            except BufferError:
                self.poll(0.1)
                self._note_wait(began)
            except KafkaException as error:
                raise KafkaClientError(f"cannot send {self._describe(topic, size, error.args[0])}") from None
        self.poll()

    def limit(self, topic: str) -> int:
        """Return the largest record, in bytes with its overhead, that a topic takes; 1 MB where that is not known."""
        return min(self._limits.get(topic, _BATCH_BYTES), _BATCH_BYTES)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serve delivery reports; waits up to `timeout_s` for the first.

        Raises:
            KafkaClientError: when a record could not be delivered, or Kafka refuses this client.
        """
        self._serve(lambda: self._producer.poll(timeout_s))
        self._check()
        self._health.check()

    @property
    def waiting(self) -> int:
        """Records that Kafka has not acknowledged yet, and what the client has to say and was not polled for."""
        return len(self._producer)

    def flush(self) -> None:
        """Wait until Kafka has acknowledged everything, however long that takes.

        Raises:
            KafkaClientError: when a record could not be delivered, or Kafka refuses this client.
        """
        began = time.monotonic()
        while self._serve(lambda: self._producer.flush(_WAIT_NOTED_S)):
            self.poll()
            self._note_wait(began)
        self.poll()

    def _check(self) -> None:
        if self._failure is not None:
            raise KafkaClientError(self._failure)

    def _serve(self, call: Callable[[], int]) -> int:
        """Let the client work; what a fatal error makes it raise becomes one of ours."""
        self._check()
        try:
            return call()
        except (KafkaException, SystemError) as problem:
            # Delivery reports that come with a fatal error are called with its exception set already, which makes a
            # SystemError of it, or loses it.
            fatal = problem.__cause__ if isinstance(problem, SystemError) else problem
            if isinstance(fatal, KafkaException):
                text = error_text(fatal.args[0])
            elif isinstance(problem, SystemError):
                text = "a fatal error, see the log line kafka_client facility=FATAL"
            else:
                raise
            lost = "sequence" in text  # numbers of records that the broker does not know
            self._failure = (
                f"this producer is of no use any more: {text}."
                f"{' Was a topic recreated, or has the broker lost records?' if lost else ''}"
                " Start again: nothing that was committed is lost"
            )
            raise KafkaClientError(self._failure) from None

    def _note_wait(self, began: float) -> None:
        """Take note that Kafka is waited for: first after `_WAIT_NOTED_S`, then as often."""
        now = time.monotonic()
        if now - max(began, self._noted_at) >= _WAIT_NOTED_S:
            self._noted_at = now
            self._health.mark_waiting(self.waiting)

    def _describe(self, topic: str, size: int, error: KafkaError) -> str:
        said = f"a record of {size} bytes for {topic}: {error.str()}"
        if is_unknown_topic(error):
            return (
                f"{said}. Was the topic deleted? `samstream topics create` creates it again, with nothing in it; then"
                " start again: nothing that was committed is lost"
            )
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            return said
        known = f", {self._limits[topic]} bytes when this program started" if topic in self._limits else ""
        return (
            f"{said}. Raise the topic's max.message.bytes{known} (and kafka.message.max.bytes here for more than 1 MB),"
            " then start again: nothing that was committed is lost"
        )

"""Creates librdkafka clients with samstream's defaults, and checks that Kafka can be reached."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient, TopicMetadata  # type: ignore[attr-defined]

from stream.errors import SettingsError
from stream.kafka.client_log import ClientLog
from stream.kafka.connection import STATISTICS_MS, ConnectionHealth
from stream.kafka.outage import RECONNECT
from stream.schema.record import Record, RecordBatch

T = TypeVar("T")

_WAIT_S = 30.0
_RETRY_S = 0.2
_ANSWER_S = 2.0


_CONSUMER = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    # Where its offset is gone, a reader must say so: to jump elsewhere by itself would pass over records.
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "range",
    "session.timeout.ms": "10000",
    # Members hear of a rebalance with their next heartbeat, and until all have heard of it nobody works.
    "heartbeat.interval.ms": "500",
    "queued.max.messages.kbytes": "65536",
    # At its default of 1 s a reader that is behind empties its queue, of 100,000 messages at most, and waits.
    "fetch.queue.backoff.ms": "50",
    # The embedded broker ignores the fetch limits; the client must then not refuse what it is sent.
    "receive.message.max.bytes": "1000000000",
}


def consumer(kafka: Mapping[str, str], own: Mapping[str, Any], health: ConnectionHealth | None = None) -> Consumer:
    """Return a consumer with samstream's defaults, overridden by the user's properties, then by the caller's (`own`).

    Its connection errors go to `health`, or only to the log; a consumer with a `health` must be polled.
    `settings.RESERVED` names the defaults that users cannot override.

    Raises:
        SettingsError: when librdkafka does not take the properties.
    """
    properties = {**_CONSUMER, **kafka, **own}
    if health is None:
        return make_client(Consumer, properties, ConnectionHealth(kafka))
    return make_client(Consumer, properties | statistics(health), health)


def statistics(health: ConnectionHealth) -> dict[str, Any]:
    """Return the properties by which a client that is polled tells `health` of the brokers that it knows."""
    return {"statistics.interval.ms": STATISTICS_MS, "stats_cb": health.note_statistics}


def make_client(kind: Callable[..., T], properties: Mapping[str, Any], health: ConnectionHealth) -> T:
    """Return a librdkafka client of some kind; its errors go to `health`, its own log lines to ours.

    Raises:
        SettingsError: when librdkafka does not take the properties.
    """
    try:
        return kind({**RECONNECT, **properties, "error_cb": health}, logger=ClientLog())
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


def to_batches(messages: Sequence[Message]) -> Iterator[RecordBatch]:
    """Yield consumed messages, all without an error, as batches: one for each run of one partition's messages."""
    begin = 0
    for (topic, partition), run in groupby(
        zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
    ):
        end = begin + sum(1 for _ in run)
        part = messages[begin:end]
        begin = end
        # A message without an error has them all.
        yield RecordBatch(
            topic,  # type: ignore[arg-type]
            partition,  # type: ignore[arg-type]
            list(map(Message.offset, part)),  # type: ignore[arg-type]
            [timestamp for _, timestamp in map(Message.timestamp, part)],
            list(map(Message.key, part)),
            list(map(Message.value, part)),
            part,
        )


def list_topics(client: AdminClient, health: ConnectionHealth, deadline: float) -> Mapping[str, TopicMetadata]:
    """Return the topics by name; waits for a Kafka that starts, until `deadline` (monotonic clock).

    A broker that was cut off from the others names no controller for a moment. librdkafka sends admin requests to the
    one that it has heard of, and does not ask again by itself, so such an answer is not taken.

    Raises:
        KafkaClientError: as soon as Kafka refuses this client, and when it has not answered by the deadline.
    """
    while True:
        with suppress(KafkaException):
            known = client.list_topics(timeout=max(0.1, min(_ANSWER_S, deadline - time.monotonic())))
            if known.controller_id >= 0:
                return known.topics
        client.poll(0)
        if health.refused or time.monotonic() > deadline:
            raise health.failure()
        time.sleep(_RETRY_S)


def admin(kafka: Mapping[str, str], health: ConnectionHealth) -> AdminClient:
    """Return an admin client that logs nothing itself: the caller reports what `health` has noted.

    Raises:
        SettingsError: when librdkafka does not take the properties.
    """
    return make_client(AdminClient, {**kafka, "log_level": "0"}, health)


def check_connection(kafka: Mapping[str, str], *, wait_s: float = _WAIT_S) -> None:
    """Check that Kafka answers and accepts the credentials.

    Raises:
        SettingsError: when librdkafka does not take the properties.
        KafkaClientError: as soon as Kafka refuses them, and when it has not answered within `wait_s`.
    """
    health = ConnectionHealth(kafka, log_errors=False)
    list_topics(admin(kafka, health), health, time.monotonic() + wait_s)

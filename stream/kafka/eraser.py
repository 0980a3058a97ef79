"""Erases users: writes their markers and erasures, and sees from committed offsets which jobs have done them."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Message

from stream.errors import EventError
from stream.kafka.clients import consumer, to_record
from stream.kafka.identity import IdentityClient
from stream.kafka.offsets import committed_offsets, watermarks
from stream.kafka.producer import ReliableProducer
from stream.schema.erasures import Cut, Erasure, encode_erasure, encode_marker
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics

_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Written:
    """What was written for a user.

    Attributes:
        user: who is erased.
        partition: of all topics keyed by user.
        marker: its offset in `behaviors`: what lies before it is void.
        erasure: its offset in `erasures`.
    """

    user: str
    partition: int
    marker: int
    erasure: int


def distinct_users(users: Iterable[str]) -> list[str]:
    """Return users in their order, each once.

    Raises:
        EventError: for what no user can be called, and when there are none.
    """
    found = list(dict.fromkeys(users))
    if not found:
        raise EventError("nobody is to be erased: name users with --user ID or --file PATH")
    for user in found:
        if not 1 <= len(user) <= _LONGEST or "\n" in user:
            raise EventError(f"{user[:40]!r} is no user's id: ids have 1 to {_LONGEST} characters")
    return found


def erase(
    kafka: Mapping[str, str],
    topics: Topics,
    users: Sequence[str],
    *,
    clock: Callable[[], float] = time.time,
    told: Callable[[], None] = lambda: None,
) -> list[Written]:
    """Erase users. Killed at any point it may be called again: a user may be erased any number of times.

    First each user's marker goes to `behaviors`, then, when Kafka has all of them, what names their offsets to
    `erasures`. A marker alone lets the sequence begin anew already.

    Args:
        kafka: librdkafka properties.
        topics: the topic names.
        users: who; `distinct_users` has seen them.
        clock: seconds since the epoch.
        told: called for each record that Kafka has, two for each user.

    Raises:
        TopicError: when a topic is missing.
        KafkaClientError: when Kafka does not take a record, or cannot be reached.
    """
    logs = IdentityClient(kafka).identify([topics.behaviors, topics.clicks, topics.erasures])
    partitions = logs[topics.behaviors].partitions
    producer = ReliableProducer(kafka)
    markers: dict[str, int] = {}
    erasures: dict[str, int] = {}

    def note(offsets: dict[str, int], user: str) -> Callable[[Message], None]:
        def delivered(message: Message) -> None:
            offsets[user] = to_record(message).offset
            told()

        return delivered

    for user in users:
        value = encode_marker(user)
        producer.send(topics.behaviors, value, key=user.encode(), on_delivery=note(markers, user))
    producer.flush()
    numbers = {user: partition_of(user.encode(), partitions) for user in users}
    asker = consumer(kafka, {"group.id": "samstream-erase"})
    try:
        clicks = {number: watermarks(asker, topics.clicks, number)[1] for number in set(numbers.values())}
    finally:
        asker.close()
    for user in users:
        erasure = Erasure(
            user=user,
            behaviors=Cut(markers[user], logs[topics.behaviors].topic_id),
            clicks=Cut(clicks[numbers[user]], logs[topics.clicks].topic_id),
            at=round(1000 * clock()),
        )
        producer.send(topics.erasures, encode_erasure(erasure), key=user.encode(), on_delivery=note(erasures, user))
    producer.flush()
    return [Written(user, numbers[user], markers[user], erasures[user]) for user in users]


class Acknowledgements:
    """Sees how far the jobs of one group have done erasures.

    Args:
        kafka: librdkafka properties.
        topics: the topic names.
        group: `Settings.erasure_group` of the job.
    """

    def __init__(self, kafka: Mapping[str, str], topics: Topics, group: str) -> None:
        self._topic = topics.erasures
        self._consumer = consumer(kafka, {"group.id": group})

    def left(self, written: Iterable[Written]) -> int:
        """Return how many of these erasures the job has not said to be done.

        Raises:
            KafkaClientError: when Kafka does not say.
        """
        asked = list(written)
        numbers = sorted({each.partition for each in asked})
        done = {each.partition: each.offset for each in committed_offsets(self._consumer, self._topic, numbers)}
        return sum(done[each.partition] <= each.erasure for each in asked)

    def close(self) -> None:
        """Close the client."""
        self._consumer.close()

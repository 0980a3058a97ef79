"""What a consumer group has read: a sign of another installation that has the same group's name."""

from collections.abc import Iterable, Mapping
from contextlib import closing

from confluent_kafka import KafkaException, TopicPartition

from stream.kafka.clients import admin, consumer
from stream.kafka.connection import ConnectionHealth

_ANSWER_S = 10.0


def topics_of_others(kafka: Mapping[str, str], group: str, prefix: str, topics: Iterable[str]) -> list[str]:
    """Return topics of other prefixes that a group reads: it has committed offsets of them, or members that read them.

    Nothing where Kafka does not say so to this user: it is a sign, not a proof.

    Args:
        kafka: librdkafka properties.
        group: the consumer group.
        prefix: of the topics that it should read.
        topics: their names, prefix included.
    """
    ours = set(topics)
    kinds = tuple(topic.removeprefix(prefix) for topic in ours)
    try:
        read = _committed(kafka, group, ours, kinds) | _assigned(kafka, group)
    except KafkaException:
        return []
    return sorted(topic for topic in read - ours if topic.endswith(kinds))


def _committed(kafka: Mapping[str, str], group: str, ours: set[str], kinds: tuple[str, ...]) -> set[str]:
    """Return which other topics of these kinds the group has committed offsets of."""
    # An admin client could list them without names; it crashes now and then when it is closed after that.
    with closing(consumer(kafka, {"group.id": group})) as client:
        known = client.list_topics(timeout=_ANSWER_S).topics
        others = [topic for topic in known if topic.endswith(kinds) and topic not in ours]
        asked = [TopicPartition(topic, number) for topic in others for number in known[topic].partitions]
        committed = client.committed(asked, timeout=_ANSWER_S) if asked else []
    return {where.topic for where in committed if where.error is None and where.offset >= 0}


def _assigned(kafka: Mapping[str, str], group: str) -> set[str]:
    """Return the topics whose partitions the group's members have."""
    client = admin(kafka, ConnectionHealth(kafka, log_errors=False))
    described = client.describe_consumer_groups([group], request_timeout=_ANSWER_S)[group].result()
    return {where.topic for member in described.members for where in member.assignment.topic_partitions}

"""What a consumer group has read: a sign of another installation that has the same group's name."""

from collections.abc import Iterable, Mapping

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException

from stream.kafka.clients import admin
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
    client = admin(kafka, ConnectionHealth(kafka, log_errors=False))
    asked = [ConsumerGroupTopicPartitions(group)]
    try:
        committed = client.list_consumer_group_offsets(asked, request_timeout=_ANSWER_S)[group].result()
        described = client.describe_consumer_groups([group], request_timeout=_ANSWER_S)[group].result()
    except KafkaException:
        return []
    assigned = [where for member in described.members for where in member.assignment.topic_partitions]
    ours = set(topics)
    kinds = tuple(topic.removeprefix(prefix) for topic in ours)
    found = {where.topic for where in (*committed.topic_partitions, *assigned)}
    return sorted(topic for topic in found - ours if topic.endswith(kinds))

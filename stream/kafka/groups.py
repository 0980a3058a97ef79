"""Consumer groups: their members with the partitions that each has, and what a group has read of other prefixes."""

from collections.abc import Iterable, Mapping
from contextlib import closing

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription  # type: ignore[attr-defined]

from stream.errors import KafkaClientError
from stream.kafka.clients import admin, consumer
from stream.kafka.connection import ConnectionHealth

_ANSWER_S = 10.0


class GroupClient:
    """Asks Kafka for the members of one group, without joining it.

    Args:
        kafka: librdkafka properties.
        group: the consumer group.
    """

    def __init__(self, kafka: Mapping[str, str], group: str) -> None:
        self._client = admin(kafka, ConnectionHealth(kafka, log_errors=False))
        self._group = group

    def members(self, topic: str) -> dict[str, frozenset[int]]:
        """Return member id → the partitions of a topic that it has, in the order in which they are assigned by range.

        Members without partitions come last. Empty while the group rebalances.

        Raises:
            KafkaClientError: when Kafka does not answer, or does not allow the question.
        """
        try:
            found = _describe(self._client, self._group)
        except KafkaException as error:
            raise KafkaClientError(f"members of group {self._group}: {error.args[0].str()}") from None
        if found.state.name != "STABLE":
            return {}
        held = {
            member.member_id: frozenset(
                place.partition for place in member.assignment.topic_partitions if place.topic == topic
            )
            for member in found.members
        }
        # Two without partitions are ordered as librdkafka's range assignor orders them, by static or else member id.
        names = {member.member_id: member.group_instance_id or member.member_id for member in found.members}
        order = sorted(held, key=lambda member: (min(held[member], default=1 << 31), names[member]))
        return {member: held[member] for member in order}


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
    members = _describe(admin(kafka, ConnectionHealth(kafka, log_errors=False)), group).members
    return {where.topic for member in members for where in member.assignment.topic_partitions}


def _describe(client: AdminClient, group: str) -> ConsumerGroupDescription:
    """Describe a group; raises KafkaException when Kafka does not answer, or does not allow it."""
    client.list_topics(timeout=_ANSWER_S)  # while no broker can be reached, librdkafka keeps a core busy with the next
    found: ConsumerGroupDescription = client.describe_consumer_groups([group], request_timeout=_ANSWER_S)[
        group
    ].result()
    return found

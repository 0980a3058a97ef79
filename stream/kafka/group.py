"""The members of a consumer group and the partitions that each of them has."""

from collections.abc import Mapping

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConsumerGroupDescription  # type: ignore[attr-defined]

from stream.errors import KafkaClientError
from stream.kafka.clients import admin
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
        asked = self._client.describe_consumer_groups([self._group], request_timeout=_ANSWER_S)
        try:
            found: ConsumerGroupDescription = asked[self._group].result()
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

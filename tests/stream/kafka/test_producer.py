"""A producer that is of no use any more says why, each time it is used."""

import pytest
from confluent_kafka.admin import AdminClient

from stream.errors import KafkaClientError
from stream.kafka import topic_admin
from stream.kafka.producer import ReliableProducer
from stream.local.broker import Broker
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS


@pytest.mark.parametrize("served_by", ["flush", "poll"])
def test_a_fatal_error_is_told_with_what_to_do_also_to_later_calls(
    broker: Broker, kafka: dict[str, str], topics: Topics, served_by: str
) -> None:
    """A topic is recreated: its broker does not know the sequence numbers that an idempotent producer goes on with."""
    if broker.engine is None or broker.engine.name != "embedded":
        pytest.skip("Apache Kafka takes the sequence number that comes first in a topic that was recreated")
    producer = ReliableProducer(kafka)
    for _ in range(3):
        producer.send(topics.outcomes, b"x", partition=0)
    producer.flush()
    admin = AdminClient({**kafka, "log_level": 0})
    for deleted in admin.delete_topics([topics.outcomes]).values():
        deleted.result()
    topic_admin.ensure(kafka, topics, partitions=PARTITIONS, replication=1)
    producer.send(topics.outcomes, b"x", partition=0)

    def serve() -> None:
        """Let the client work until it has reported the failed delivery together with the fatal error, or before."""
        if served_by == "flush":
            producer.flush()
        while producer.waiting:
            producer.poll(0.1)

    # Now and then confluent-kafka loses the exception, and only its log line says what happened.
    why = f"(.*{topics.outcomes}.*recreated|.*facility=FATAL)"
    told = f"of no use any more: {why}.* Start again: nothing that was committed is lost$"
    with pytest.raises(KafkaClientError, match=told):
        serve()
    with pytest.raises(KafkaClientError, match=told):
        producer.send(topics.outcomes, b"x", partition=0)
    with pytest.raises(KafkaClientError, match=told):
        producer.flush()

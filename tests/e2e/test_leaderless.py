"""Partitions that have no leader for some seconds, again and again, and a broker that names no brokers."""

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from stream.errors import KafkaClientError, KafkaSilentError, TopicError
from stream.kafka import topic_admin
from stream.kafka.clients import consumer
from stream.kafka.offsets import offset_for_time, watermarks
from stream.kafka.reader import TopicReader
from stream.local.broker import local_broker
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import wait_for

pytestmark = pytest.mark.durable_broker

# The controller takes a broker for dead that it has not heard of for 4 s, and this one speaks every 6 s.
UNSTEADY = {"broker.session.timeout.ms": 4000, "broker.heartbeat.interval.ms": 6000}


@pytest.fixture(scope="module")
def unsteady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Properties of an Apache Kafka whose partitions have no leader for 2 s of every 6 s."""
    with local_broker("kafka", tmp_path_factory.mktemp("unsteady"), properties=UNSTEADY) as broker:
        yield {"bootstrap.servers": broker.bootstrap}


def made(kafka: dict[str, str], prefix: str) -> Topics:
    topics = Topics(prefix)

    def made_all() -> bool:
        try:
            topic_admin.ensure(kafka, topics, partitions=PARTITIONS, replication=1, deadline_s=5)
        except (TopicError, KafkaClientError):  # it may have forgotten all brokers
            return False
        return True

    wait_for(made_all, "the topics", deadline_s=150)
    return topics


def has_leader(kafka: dict[str, str], topic: str) -> bool:
    """Ask Kafka whether a topic's partition 0 has a leader; False while it does not answer.

    Each question has a client of its own: one that is told of no brokers forgets all, and would never hear of a leader.
    """
    with closing(consumer(kafka, {"group.id": "observer"})) as client:
        try:
            return bool(client.list_topics(topic, timeout=2).topics[topic].partitions[0].leader >= 0)
        except KafkaException:
            return False


def await_new_leader(kafka: dict[str, str], topic: str) -> None:
    """Wait until partition 0 has just got a leader again: it keeps that for some seconds."""
    wait_for(lambda: not has_leader(kafka, topic), "no leader")
    wait_for(lambda: has_leader(kafka, topic), "a leader")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["watermarks", "by time"])
def test_a_client_that_has_heard_of_no_leader_asks_again(unsteady: dict[str, str], way: str) -> None:
    topic = made(unsteady, f"asked-{way.replace(' ', '-')}-").outcomes

    def asks_again() -> bool:
        asker = consumer(unsteady, {"group.id": "asker"})

        def has_forgotten() -> bool:
            try:
                asker.get_watermark_offsets(TopicPartition(topic, 0), timeout=2)
            except KafkaException as problem:
                return bool(problem.args[0].code() == KafkaError._UNKNOWN_PARTITION)
            return False

        try:
            wait_for(has_forgotten, "no leader")
            await_new_leader(unsteady, topic)
            if not has_forgotten():
                return False  # it has bootstrapped again meanwhile, and heard of the leader by that
            begun = time.monotonic()
            if way == "watermarks":
                assert watermarks(asker, topic, 0, wait_s=10) == (0, 0)
            else:
                assert offset_for_time(asker, topic, 0, 1, 7) == 7
            # Without the question for the leader it would be minutes.
            return time.monotonic() - begun < 10
        except KafkaSilentError:
            return False  # it may have forgotten all brokers
        finally:
            asker.close()

    wait_for(asks_again, "a client that hears of a new leader by asking for it", deadline_s=300)


def test_a_client_that_is_told_of_no_brokers_and_forgets_all_says_so(unsteady: dict[str, str]) -> None:
    topic = made(unsteady, "forgotten-").outcomes
    await_new_leader(unsteady, topic)
    # Such a client never looks for its brokers again; by default it may miss its chance to.
    reader = TopicReader(unsteady | {"metadata.recovery.strategy": "none"}, [topic], from_beginning=True)

    def reads() -> bool:
        reader.read(0.2)
        return False

    with pytest.raises(KafkaSilentError, match="forgotten all brokers"):
        wait_for(reads, "a word")
    reader.close()

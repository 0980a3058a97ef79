"""A topic that is deleted under a job is named: health turns bad, a producer ends with what to do."""

from contextlib import closing
from pathlib import Path

import pytest

from stream.client import Client
from stream.errors import KafkaClientError, TopicError
from stream.kafka import topic_admin
from stream.kafka.offsets import GroupLag
from stream.kafka.producer import ReliableProducer
from stream.local.broker import Broker
from stream.schema.events import Candidate
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import Harness, wait_for
from tests.e2e.served import health
from tests.e2e.test_positions import delete


@pytest.fixture(autouse=True)
def deletes_for_good(broker: Broker) -> None:
    if broker.engine is not None and broker.engine.name == "embedded":
        pytest.skip("the embedded broker creates a topic again as soon as anybody asks for it")


def test_a_deleted_topic_turns_the_health_of_all_who_read_it_bad_and_is_named(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    with Harness(kafka, topics, topic_prefix, tmp_path) as harness:
        worker, trainer = harness.start_measured()
        harness.wander(20)
        harness.traffic(3)
        for port in (worker, trainer):
            status, said = health(port)
            assert (status, said["trouble"]) == (200, "")
        harness.client.flush()  # else a click may wait for the topic that is gone
        with closing(GroupLag(harness.settings.kafka, harness.settings.worker.group)) as lag:
            wait_for(lambda: not lag.of(topics.clicks, PARTITIONS), "all clicks", processes=harness.processes)
        delete(kafka, topics.clicks, topics.samples, topics.scores)
        for name, port, gone in (("worker", worker, topics.clicks), ("trainer", trainer, topics.samples)):
            wait_for(lambda of=port: health(of)[0] == 503, f"the {name} to be in trouble", processes=harness.processes)  # type: ignore[misc]
            assert gone in health(port)[1]["trouble"]
            log = harness.processes.log(name).read_text()
            assert log.count(f"topic_gone topic={gone} ") == 1, log
        with pytest.raises(KafkaClientError, match=topics.scores):
            wait_for(lambda: bool(harness.client.poll_scores(1.0)), "an answer that never comes")


def test_a_client_hears_that_the_topic_of_its_answers_was_recreated(kafka: dict[str, str], topics: Topics) -> None:
    with Client(kafka, topics) as client:
        client.impression("user", [Candidate("item")])
        delete(kafka, topics.scores)
        topic_admin.ensure(kafka, topics, partitions=PARTITIONS, replication=1)
        with pytest.raises(TopicError, match=f"{topics.scores} was recreated"):
            client.poll_scores(30.0)


def test_a_producer_to_a_deleted_topic_ends_with_its_name_and_what_to_do(kafka: dict[str, str], topics: Topics) -> None:
    quick = {"topic.metadata.refresh.interval.ms": "500", "topic.metadata.propagation.max.ms": "500"}
    producer = ReliableProducer(kafka | quick)
    producer.send(topics.outcomes, b"x", partition=0)
    producer.flush()
    delete(kafka, topics.outcomes)

    def still_takes() -> bool:
        producer.send(topics.outcomes, b"x", partition=0)
        producer.flush()
        return False

    with pytest.raises(KafkaClientError, match=f"{topics.outcomes}.*samstream topics create"):
        wait_for(still_takes, "the producer to end")

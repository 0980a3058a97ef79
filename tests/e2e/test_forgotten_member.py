"""A worker whose group gives it no partitions asks again with another consumer, and works once it gets them."""

from contextlib import closing
from pathlib import Path

import pytest

from stream.kafka.clients import consumer
from stream.schema.topics import Topics
from tests.e2e.harness import Harness, wait_for


@pytest.mark.slow
@pytest.mark.durable_broker  # the embedded one does not wait for members that are silent
def test_a_worker_that_waits_for_its_partitions_in_vain_joins_again(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path
) -> None:
    with Harness(kafka, topics, topic_prefix, tmp_path) as harness:
        group = {"group.id": harness.settings.worker.group, "session.timeout.ms": "6000"}
        with closing(consumer(kafka, group)) as member:
            member.subscribe([topics.behaviors, topics.impressions, topics.clicks])

            def has_partitions() -> bool:
                member.poll(0.1)
                return bool(member.assignment())

            wait_for(has_partitions, "the member to get partitions")
            # From now on it is not polled: the group waits for it, and the worker for the group.
            harness.processes.start("trainer", "trainer")
            harness.processes.start("worker", "worker")
            log = harness.processes.log("worker")
            told = 'rejoining error="no partitions for 20 s, while Kafka answers"'
            wait_for(lambda: told in log.read_text(), "the worker to join again", processes=harness.processes)
            assert "assigned" not in log.read_text()
        harness.wander(100)
        harness.traffic(10)
        harness.settle()

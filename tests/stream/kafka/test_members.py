"""Members of consumer groups while a broker freezes and comes back."""

import os
import signal
import time
from contextlib import ExitStack

import pytest
from confluent_kafka import Consumer

from stream.kafka.clients import consumer
from stream.local.broker import Broker
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS


def have_partitions(members: list[Consumer]) -> bool:
    for member in members:
        member.poll(0.002)
    return all(len(member.assignment()) == 2 * PARTITIONS for member in members)


@pytest.mark.slow
@pytest.mark.durable_broker
def test_every_member_that_joins_while_a_broker_comes_back_gets_its_partitions(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, broker: Broker
) -> None:
    """Some hear of no topics at first. Left to itself, librdkafka asks again after minutes: 4 members of 240 here."""
    assert broker.process is not None
    for round_ in range(5):
        os.kill(broker.process.pid, signal.SIGSTOP)
        time.sleep(3.2)  # longer than Kafka waits for a broker's heartbeat before it fences it
        os.kill(broker.process.pid, signal.SIGCONT)
        with ExitStack() as stack:
            members = []
            for number in range(24):
                members.append(member := consumer(kafka, {"group.id": f"{topic_prefix}{round_}-{number}"}))
                stack.callback(member.close)
                member.subscribe([topics.behaviors, topics.impressions])
                time.sleep(0.008)
            deadline = time.monotonic() + 20
            while not have_partitions(members):
                assert time.monotonic() < deadline, [len(member.assignment()) for member in members]

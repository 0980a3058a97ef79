"""Offsets that Kafka refuses are committed again, though nothing happens in their partitions any more."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client import CollectorRegistry

from state.partition import Partition
from stream.kafka.clients import consumer
from stream.kafka.connection import ConnectionHealth
from stream.kafka.identity import IdentityClient
from stream.schema.position import Origin
from stream.schema.topics import Topics
from stream.settings import Settings, convert
from stream.task.task import Task
from stream.worker.consumer import TaskConsumer
from stream.worker.local_state import LocalState
from stream.worker.metrics import WorkerMetrics
from stream.worker.refused_commits import RefusedCommits
from stream.worker.snapshots import Snapshotter
from stream.worker.takeover import TakeOver
from tests.conftest import PARTITIONS

NUMBER = 1
READ = 3
"""Records of each topic that were processed."""
DEADLINE_S = 30.0


@dataclass
class Reached:
    """A task of which only its offsets count."""

    offsets: dict[str, int]
    origins: dict[str, str]


@pytest.fixture
def group(topic_prefix: str) -> str:
    return f"{topic_prefix}workers"


@pytest.fixture
def outsider(kafka: dict[str, str], group: str) -> Iterator[Consumer]:
    """A client of the group that is no member of it."""
    with closing(consumer(kafka, {"group.id": group})) as client:
        yield client


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline


def inputs_of(topics: Topics) -> tuple[str, ...]:
    return topics.behaviors, topics.impressions, topics.clicks


def offset_of(client: Consumer, topic: str) -> int:
    [known] = client.committed([TopicPartition(topic, NUMBER)], timeout=DEADLINE_S)
    return max(0, known.offset)


@dataclass
class Refusal:
    """A consumer whose first commit Kafka has refused: while a group has members, it takes nothing from others."""

    taken: TaskConsumer
    tasks: dict[int, Task]
    refused: RefusedCommits


@pytest.fixture(params=[False, True], ids=["unheard", "waited"])
def refusal(
    kafka: dict[str, str], topics: Topics, group: str, outsider: Consumer, request: pytest.FixtureRequest
) -> Iterator[Refusal]:
    inputs, refused = inputs_of(topics), RefusedCommits()
    tasks = cast("dict[int, Task]", {NUMBER: Reached(dict.fromkeys(inputs, READ), dict.fromkeys(inputs, ""))})
    with closing(consumer(kafka, {"group.id": group, "on_commit": refused})) as client:
        taken = TaskConsumer(client, inputs, ConnectionHealth({}), lambda: outsider, refused=refused)
        taken.begin({NUMBER: dict.fromkeys(inputs, 0)})
        with closing(consumer(kafka, {"group.id": group})) as member:
            member.subscribe([topics.scores])
            wait_until(lambda: member.poll(0.1) or member.assignment())
            taken.commit({NUMBER}, tasks, wait=request.param)
            wait_until(lambda: taken.receive(0.1) or refused.numbers)
        assert offset_of(outsider, topics.clicks) == 0
        yield Refusal(taken, tasks, refused)


def test_what_kafka_refuses_is_committed_again(refusal: Refusal, topics: Topics, outsider: Consumer) -> None:
    refusal.taken.commit(set(), refusal.tasks, wait=False)
    wait_until(lambda: refusal.taken.receive(0.1) or offset_of(outsider, topics.clicks))
    assert [offset_of(outsider, topic) for topic in inputs_of(topics)] == [READ] * 3
    assert not refusal.refused.numbers


def test_a_refusal_that_comes_after_a_rebalance_does_not_take_the_group_back(
    refusal: Refusal, topics: Topics, outsider: Consumer
) -> None:
    """Another worker may have gone further in between; until this one has gone on as well, it knows nothing newer."""
    late = set(refusal.refused.numbers)
    refusal.taken.forget()
    refusal.taken.begin({NUMBER: dict.fromkeys(inputs_of(topics), 0)})
    refusal.refused.numbers |= late
    refusal.taken.commit(set(), refusal.tasks, wait=True)
    assert offset_of(outsider, topics.clicks) == 0
    refusal.taken.commit({NUMBER}, refusal.tasks, wait=True)
    assert offset_of(outsider, topics.clicks) == READ


@pytest.mark.parametrize("behind", ["behaviors", "impressions", "clicks", ""])
def test_a_state_beyond_the_groups_offsets_is_told_to_the_group(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, outsider: Consumer, tmp_path: Path, behind: str
) -> None:
    """A worker that was to commit them may have lost its partitions before Kafka took them."""
    inputs = inputs_of(topics)
    state = {"directory": str(tmp_path / "state"), "cache_mb": 1}
    worker = {"group": f"{topic_prefix}workers"}
    settings: Settings = convert({"kafka": kafka, "topics": {"prefix": topic_prefix}, "state": state, "worker": worker})
    logs = IdentityClient(kafka).identify([*inputs, topics.scores])
    producer = Producer(kafka)
    for topic in inputs:
        for _ in range(READ):
            producer.produce(topic, b"{}", partition=NUMBER)
    assert producer.flush(DEADLINE_S) == 0
    with closing(
        Partition.open(settings.state.path(NUMBER), length=settings.state.length, slack=settings.state.slack)
    ) as kept:
        kept.commit(dict.fromkeys(inputs, READ), {topic: Origin(logs[topic]).encode() for topic in inputs})
    told = [TopicPartition(topic, NUMBER, READ - (topic == f"{topic_prefix}{behind}")) for topic in inputs]
    outsider.commit(offsets=told, asynchronous=False)

    with closing(Snapshotter(settings.state, topics, WorkerMetrics(CollectorRegistry()))) as snapshotter:
        states = LocalState(settings.state, topics.behaviors, snapshotter)
        taking = TakeOver(settings, topics, logs, states, [NUMBER], partitions=PARTITIONS)
        tasks: dict[int, Task] = {}
        wait_until(lambda: tasks.update(taking.take()) or tasks)
        task = tasks[NUMBER]
        with closing(task):
            assert task.changed == bool(behind)
            task.commit()
            assert not task.changed

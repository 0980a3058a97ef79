"""Partitions that were raised are told by every worker, also by one that is given nothing but new ones."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from prometheus_client import CollectorRegistry

from stream.errors import WorkerError
from stream.kafka.clients import consumer
from stream.kafka.identity import IdentityClient
from stream.runtime.closing import Resources
from stream.schema.position import LogIdentity, Origin
from stream.schema.topics import Topics
from stream.settings import Settings, convert
from stream.worker.catchup import CatchUp
from stream.worker.local_state import LocalState
from stream.worker.membership import Membership
from stream.worker.metrics import WorkerMetrics
from stream.worker.snapshots import Snapshotter
from stream.worker.standbys import Standbys
from stream.worker.takeover import TakeOver
from tests.conftest import PARTITIONS

WAIT_S = 30.0


@pytest.fixture
def settings(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Settings:
    state = {"directory": str(tmp_path / "state"), "cache_mb": 1}
    return convert({"kafka": kafka, "topics": {"prefix": topic_prefix}, "state": state})


def until_raised(turn: Callable[[], object]) -> str:
    """Call `turn` until it raises a WorkerError; returns what that says."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            turn()
        except WorkerError as error:
            return str(error)
    raise AssertionError(f"no error within {WAIT_S:.0f} s")


def commit(settings: Settings, log: LogIdentity, offset: int) -> None:
    """Commit an offset of partition 0 for the workers' group, as a worker that knew this log did."""
    asker = consumer(settings.kafka, {"group.id": settings.worker.group})
    asker.commit(offsets=[TopicPartition(log.topic, 0, offset, Origin(log).encode())], asynchronous=False)
    asker.close()


@pytest.mark.parametrize("offset", [0, 1])
def test_new_partitions_are_not_taken_over_where_an_old_one_was_committed_among_fewer(
    kafka: dict[str, str], topics: Topics, settings: Settings, offset: int
) -> None:
    """`range` may give a worker the new partitions alone, and of these nothing is kept."""
    logs = IdentityClient(kafka).identify([topics.behaviors, topics.impressions, topics.clicks, topics.scores])
    now = logs[topics.impressions]
    commit(settings, LogIdentity(now.cluster, now.topic, now.topic_id, PARTITIONS // 2), offset)
    snapshotter = Snapshotter(settings.state, topics, WorkerMetrics(CollectorRegistry()))
    states = LocalState(settings.state, topics.behaviors, snapshotter)
    new = range(PARTITIONS // 2, PARTITIONS)
    with Resources() as resources:
        resources.add(snapshotter)
        taking = TakeOver(settings, topics, logs, states, list(new), partitions=PARTITIONS)
        resources.defer(taking.cancel)

        def turn() -> None:
            assert not taking.take(), "taken over without a word"
            time.sleep(0.01)

        told = until_raised(turn)
    assert f"had {PARTITIONS // 2} partitions; now it has {PARTITIONS}" in told
    assert settings.worker.group in told


def test_partitions_that_were_raised_after_the_start_and_before_the_assignment_are_told(
    topics: Topics, settings: Settings
) -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    snapshotter = Snapshotter(settings.state, topics, metrics)
    at_start = PARTITIONS // 2
    with Resources() as resources:
        resources.add(snapshotter)
        membership = Membership(
            settings,
            topics,
            snapshotter,
            resources.add(Standbys(settings, topics, snapshotter, metrics, partitions=at_start)),
            CatchUp(metrics),
            partitions=at_start,
            before_revoke=lambda: None,
            before_lost=lambda: None,
        )
        resources.add(membership)

        def turn() -> None:
            membership.begin_ready()
            membership.consumer.receive(0.1)
            membership.check()
            assert not membership.tasks, "taken over without a word"

        told = until_raised(turn)
    assert "the number of partitions" in told
    assert "was changed while this worker ran" in told

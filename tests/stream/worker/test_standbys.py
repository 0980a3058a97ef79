"""Standby copies believe what their owners have committed of the log of now alone; their trouble is told briefly."""

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from prometheus_client import CollectorRegistry

from state.partition import Partition
from stream.errors import KafkaClientError
from stream.kafka.clients import consumer
from stream.kafka.identity import IdentityClient
from stream.kafka.outage import outage_of
from stream.runtime.closing import Resources
from stream.schema.position import LogIdentity, Origin
from stream.schema.topics import Topics
from stream.settings import Settings, convert
from stream.task.paced_fold import PacedFold
from stream.worker import standbys as module
from stream.worker.metrics import WorkerMetrics
from stream.worker.snapshots import Snapshotter
from stream.worker.standby_feed import StandbyFeed
from stream.worker.standbys import Place, Standbys
from tests.conftest import PARTITIONS
from tests.e2e.harness import wait_for

WRITTEN = 20


@pytest.mark.parametrize("of", ["the log of now", "another log", "another program"])
def test_a_copy_goes_no_further_than_its_owner_has_read_of_the_log_of_now(
    kafka: dict[str, str], topics: Topics, tmp_path: Path, of: str
) -> None:
    """The offset of a topic that was recreated since says nothing of the one of now."""
    now = IdentityClient(kafka).identify([topics.behaviors])[topics.behaviors]
    other = LogIdentity(now.cluster, now.topic, "AAAAAAAAAAAAAAAAAAAAAQ", now.partitions + 1)
    metadata = {"the log of now": Origin(now).encode(), "another log": Origin(other).encode(), "another program": "x"}
    producer = Producer(kafka)
    for _ in range(WRITTEN):
        producer.produce(topics.behaviors, b"{}", partition=0)
    assert producer.flush(30) == 0
    settings = convert({"kafka": kafka})
    partition = Partition.open(tmp_path / "copy")
    with Resources() as resources:
        copy = PacedFold(partition, topics, settings.worker, now, 0, partitions=PARTITIONS)
        resources.add(copy)
        own = {"group.id": f"{topics.behaviors}-group", "auto.offset.reset": "error"}
        asker = resources.add(consumer(kafka, own))
        committed = [TopicPartition(topics.behaviors, 0, WRITTEN - 5, metadata[of])]
        asker.commit(offsets=committed, asynchronous=False)
        feed = StandbyFeed(asker, topics.behaviors)
        feed.ask({0: copy})

        def all_read() -> bool:
            assert feed.read({0: copy}) == []
            return copy.next == WRITTEN

        wait_for(all_read, "all to be read")
        expected = 0 if of == "another log" else WRITTEN - 5
        assert (copy.offset, copy.waiting) == (expected, WRITTEN - expected)
        assert feed.behind(0, copy) == 0


class Group:
    """Answers every question with an error, and counts questions and clients."""

    error: Exception = KafkaClientError("no answer from Kafka for 30 s")
    clients = asked = 0

    def __init__(self, *_: Any) -> None:
        type(self).clients += 1

    def members(self, _topic: str) -> dict[str, frozenset[int]]:
        type(self).asked += 1
        raise self.error


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> type[Group]:
    made = type("Made", (Group,), {})
    monkeypatch.setattr(module, "GroupClient", made)
    monkeypatch.setattr(module, "_PLAN_INTERVAL_S", 0.0)
    return made


def made_in(resources: Resources, kafka: dict[str, str], tmp_path: Path) -> Standbys:
    settings: Settings = convert({"kafka": kafka, "worker": {"standbys": 1}, "state": {"directory": str(tmp_path)}})
    topics, metrics = Topics(), WorkerMetrics(CollectorRegistry())
    snapshotter = resources.add(Snapshotter(settings.state, topics, metrics))
    standbys = resources.add(Standbys(settings, topics, snapshotter, metrics, partitions=PARTITIONS))
    standbys.follow(Place("member", LogIdentity("cluster", topics.behaviors, "id", PARTITIONS)))
    return standbys


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(event)]


def test_trouble_is_told_once_in_a_while_and_each_time_other_clients_ask(
    kafka: dict[str, str], group: type[Group], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Resources() as resources:
        made_in(resources, kafka, tmp_path)
        wait_for(lambda: group.asked >= 3, "three questions")
    assert group.clients >= 3
    assert len(said(caplog, "standbys_waiting")) == 1


@pytest.mark.long
def test_of_a_kafka_that_is_away_standbys_say_nothing(
    group: type[Group], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kafka = {"bootstrap.servers": "127.0.0.1:2", "log_level": "0"}
    outage = outage_of(kafka)
    outage.fail("nobody is there")
    with Resources() as resources:
        made_in(resources, kafka, tmp_path)
        wait_for(lambda: group.asked >= 2, "two questions")
    assert said(caplog, "standbys_waiting") == []


def test_what_nobody_foresaw_ends_the_copies_with_one_line(
    group: type[Group], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group.error = RuntimeError("a bug")
    kafka = {"bootstrap.servers": "127.0.0.1:1", "log_level": "0"}
    with Resources() as resources:
        made_in(resources, kafka, tmp_path)
        wait_for(lambda: bool(said(caplog, "standbys_ended")), "the line")
    assert said(caplog, "standbys_ended") == ['standbys_ended error="RuntimeError: a bug"']

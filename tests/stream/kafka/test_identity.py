"""A watch notices that a topic was recreated or has more partitions: by topic ids or, without, by the records."""

import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from stream.kafka import topic_admin
from stream.kafka.identity import LogWatch, Position
from stream.kafka.producer import ReliableProducer
from stream.schema.position import Difference
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS


@pytest.fixture
def watch(kafka: dict[str, str]) -> LogWatch:
    return LogWatch(kafka, interval_s=0.1)


@pytest.fixture
def write(kafka: dict[str, str], topics: Topics) -> Callable[[int], Position]:
    def write_and_read(count: int) -> Position:
        """Write records to a partition; returns where a job stands that has read all of them."""
        stamps: list[int] = []
        sender = ReliableProducer(kafka)
        for _ in range(count):
            sender.send(topics.samples, b"x", partition=1, on_delivery=lambda sent: stamps.append(sent.timestamp()[1]))
        sender.flush()
        return topics.samples, 1, count, stamps[-1]

    return write_and_read


def checks(watch: LogWatch, positions: Iterable[Position], *, for_s: float) -> Iterator[tuple[str, Difference] | None]:
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        yield watch.check(time.monotonic(), lambda: positions)
        time.sleep(0.01)


def recreate(kafka: dict[str, str], topics: Topics) -> None:
    admin = AdminClient({**kafka, "log_level": 0})
    for deleted in admin.delete_topics([topics.samples]).values():
        deleted.result()
    deadline = time.monotonic() + 20
    while topics.samples in admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
        time.sleep(0.05)
    topic_admin.ensure(kafka, topics, partitions=PARTITIONS, replication=1)


def test_a_topic_that_stays_is_told_from_one_that_was_recreated(
    kafka: dict[str, str], topics: Topics, watch: LogWatch, write: Callable[[int], Position]
) -> None:
    watch.begin([topics.samples])
    first = write(20)
    assert not any(checks(watch, [first], for_s=1.0))
    recreate(kafka, topics)
    # More than there was, and all of it read before anybody asks: the position alone looks like progress.
    second = write(50)
    assert (topics.samples, "id") in checks(watch, [second], for_s=20.0)
    watch.begin([topics.samples])
    assert not any(checks(watch, [second], for_s=1.0))


def test_more_partitions_are_noticed(kafka: dict[str, str], topics: Topics, watch: LogWatch) -> None:
    watch.begin([topics.samples, topics.clicks])
    admin = AdminClient({**kafka, "log_level": 0})
    for raised in admin.create_partitions([NewPartitions(topics.clicks, PARTITIONS + 1)]).values():
        raised.result()
    assert (topics.clicks, "partitions") in checks(watch, [], for_s=20.0)

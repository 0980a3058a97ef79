"""Readers outside of a group, and how far a group is behind, on a real broker."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from stream.errors import KafkaClientError, StreamError, TopicError
from stream.kafka import topic_admin
from stream.kafka.clients import consumer
from stream.kafka.identity import LogWatch
from stream.kafka.offsets import GroupLag
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.broker import Broker
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS

FILLED = {0: 5, 1: 3, 2: 1, 3: 0}
"""Partition → records that lie in it before a test begins."""


@pytest.fixture
def sender(kafka: dict[str, str]) -> ReliableProducer:
    return ReliableProducer(kafka)


@pytest.fixture
def filled(sender: ReliableProducer, topics: Topics) -> Topics:
    """Of `behaviors`, filled as `FILLED` says; a value names its partition and its offset."""
    for partition, count in FILLED.items():
        send(sender, topics, partition, *range(count))
    return topics


@pytest.fixture
def tail(kafka: dict[str, str]) -> Iterator[Callable[..., TopicReader]]:
    opened: list[TopicReader] = []

    def open_tail(*names: str, **options: Any) -> TopicReader:
        opened.append(TopicReader(kafka, names, **options))
        return opened[-1]

    yield open_tail
    for each in opened:
        each.close()


def send(sender: ReliableProducer, topics: Topics, partition: int, *offsets: int) -> None:
    for offset in offsets:
        sender.send(topics.behaviors, f"{partition}/{offset}".encode(), partition=partition)
    sender.flush()


def read(tail: TopicReader, count: int, *, limit: int = 1000) -> list[str]:
    """Return the next `count` values, sorted; fails when they do not come."""
    values: list[str] = []
    deadline = time.monotonic() + 20
    while len(values) < count:
        assert time.monotonic() < deadline, f"only {values} came"
        got = tail.read(0.5, limit=limit)
        assert len(got) <= limit
        values += map(value_of, got)
    return sorted(values)


def value_of(message: Message) -> str:
    value = message.value()
    assert isinstance(value, bytes)
    return value.decode()


def names(first: dict[int, int]) -> list[str]:
    """The records of `FILLED` from these offsets on."""
    return [f"{partition}/{offset}" for partition, count in FILLED.items() for offset in range(first[partition], count)]


def test_from_the_end_on_only_what_comes_is_read(
    tail: Callable[..., TopicReader], sender: ReliableProducer, filled: Topics
) -> None:
    reader = tail(filled.behaviors)
    assert reader.at_end()
    assert reader.positions == {(filled.behaviors, partition): count for partition, count in FILLED.items()}
    send(sender, filled, 0, 5, 6)
    send(sender, filled, 3, 0)
    assert read(reader, 3) == ["0/5", "0/6", "3/0"]
    assert reader.positions[filled.behaviors, 0] == 7
    assert reader.at_end(), "what came later does not matter"
    assert not reader.read(0.0)


def test_from_the_beginning_on_everything_is_read_to_the_end(tail: Callable[..., TopicReader], filled: Topics) -> None:
    reader = tail(filled.behaviors, from_beginning=True)
    assert not reader.at_end()
    most = FILLED[0] + FILLED[1] + FILLED[2]
    first = read(reader, 1, limit=1)
    assert not reader.at_end()
    assert sorted(first + read(reader, most - 1, limit=2)) == names(dict.fromkeys(FILLED, 0))
    assert reader.at_end()
    assert {partition: reader.positions[filled.behaviors, partition] for partition in FILLED} == FILLED


def test_from_given_offsets_on_and_for_the_others_as_it_is_told(
    tail: Callable[..., TopicReader], filled: Topics
) -> None:
    offsets = {(filled.behaviors, 0): 3, (filled.behaviors, 2): 1, ("another", 1): 1}
    reader = tail(filled.behaviors, from_beginning=True, offsets=offsets)
    assert read(reader, 5) == names({0: 3, 1: 0, 2: 1, 3: 0})
    reader = tail(filled.behaviors, offsets=offsets)
    assert read(reader, 2) == ["0/3", "0/4"]
    assert reader.at_end()


def test_some_records_back(tail: Callable[..., TopicReader], filled: Topics) -> None:
    reader = tail(filled.behaviors, back=2)
    assert read(reader, 5) == names({0: 3, 1: 1, 2: 0, 3: 0})
    assert reader.at_end()


def test_several_topics_at_once(tail: Callable[..., TopicReader], sender: ReliableProducer, filled: Topics) -> None:
    reader = tail(filled.behaviors, filled.dead_letters, from_beginning=True)
    assert len(reader.positions) == PARTITIONS + 1
    sender.send(filled.dead_letters, b"letter")
    sender.flush()
    assert Counter(read(reader, 10))["letter"] == 1


def test_an_empty_topic_is_at_its_end_at_once(tail: Callable[..., TopicReader], topics: Topics) -> None:
    reader = tail(topics.behaviors, from_beginning=True)
    assert reader.at_end()
    assert reader.read(0.0) == []


def test_a_topic_that_is_not_there_is_named(tail: Callable[..., TopicReader], topic_prefix: str) -> None:
    with pytest.raises(KafkaClientError, match=f"{topic_prefix}nothing.*samstream topics create"):
        tail(f"{topic_prefix}nothing")


def test_an_offset_beyond_the_end_is_no_place_to_begin(tail: Callable[..., TopicReader], filled: Topics) -> None:
    with pytest.raises(KafkaClientError, match=f"{filled.behaviors}/0 ends at 5, before the offset 6"):
        tail(filled.behaviors, offsets={(filled.behaviors, 0): 6})


def test_from_a_time_on(tail: Callable[..., TopicReader], sender: ReliableProducer, filled: Topics) -> None:
    reader = tail(filled.behaviors, from_beginning=True)
    stamped: list[int] = []
    while not reader.at_end():
        stamped += [message.timestamp()[1] for message in reader.read(1.0)]
    now = max(stamped) + 1
    while time.time() * 1000 < now + 1:
        pass
    send(sender, filled, 1, 3)
    assert read(tail(filled.behaviors, since_ms=now), 1) == ["1/3"]
    assert tail(filled.behaviors, since_ms=now + 3_600_000).at_end()
    assert read(tail(filled.behaviors, since_ms=0), 10) == [*names(dict.fromkeys(FILLED, 0))[:8], "1/3", "2/0"]


def test_a_group_that_committed_nothing_is_behind_by_everything(kafka: dict[str, str], filled: Topics) -> None:
    with closing(GroupLag(kafka, f"group of {filled.behaviors}")) as lag:
        assert lag.of(filled.behaviors, PARTITIONS) == sum(FILLED.values())
        assert lag.of(filled.clicks, PARTITIONS) == 0


def test_lag_is_what_was_written_and_not_committed(
    kafka: dict[str, str], sender: ReliableProducer, filled: Topics
) -> None:
    group = f"group of {filled.behaviors}"
    with closing(consumer(kafka, {"group.id": group})) as member, closing(GroupLag(kafka, group)) as lag:

        def commit(partition: int, offset: int) -> None:
            where = TopicPartition(filled.behaviors, partition, offset)
            member.commit(offsets=[where], asynchronous=False)

        commit(0, 2)
        assert lag.of(filled.behaviors, PARTITIONS) == 3 + 3 + 1
        commit(1, 3)
        commit(2, 1)
        assert lag.of(filled.behaviors, PARTITIONS) == 3
        send(sender, filled, 3, 0, 1)
        assert lag.of(filled.behaviors, PARTITIONS) == 5
        commit(0, 5)
        commit(3, 2)
        assert lag.of(filled.behaviors, PARTITIONS) == 0
    with closing(GroupLag(kafka, "another group")) as lag:
        assert lag.of(filled.behaviors, PARTITIONS) == sum(FILLED.values()) + 2


def test_lag_of_a_topic_that_is_not_there_is_an_error(kafka: dict[str, str], topic_prefix: str) -> None:
    with closing(GroupLag(kafka, "group", wait_s=1.0)) as lag, pytest.raises(KafkaClientError, match="nothing"):
        lag.of(f"{topic_prefix}nothing", 1)


def remove(kafka: dict[str, str], topic: str, partition: int, before: int) -> None:
    """Have Kafka remove the records before an offset, as retention does."""
    admin = AdminClient({**kafka, "log_level": 0})
    try:
        for removed in admin.delete_records([TopicPartition(topic, partition, before)]).values():
            removed.result()
    except KafkaException as error:
        pytest.skip(f"this broker removes no records on demand: {error}")


def test_records_that_were_removed_before_an_offset_to_go_on_from_stop_reading_or_are_counted(
    kafka: dict[str, str], tail: Callable[..., TopicReader], filled: Topics
) -> None:
    remove(kafka, filled.behaviors, 0, 4)
    offsets = {(filled.behaviors, 0): 1}
    with pytest.raises(KafkaClientError, match=f"{filled.behaviors}/0 was read up to 1, .* without these 3 records"):
        tail(filled.behaviors, offsets=offsets)
    reader = tail(filled.behaviors, offsets=offsets, on_missing="skip")
    assert read(reader, 1) == ["0/4"]
    assert reader.missing == 3


@pytest.fixture
def slow(broker: Broker, kafka: dict[str, str]) -> dict[str, str]:
    """Properties of a client that fetches a record at a time, and the next ones only when it has handed that out."""
    if broker.engine is not None and broker.engine.name == "embedded":
        pytest.skip("the embedded broker sends all that there is, whatever a client asks for")
    return kafka | {"queued.min.messages": "1", "max.partition.fetch.bytes": "1"}


@pytest.mark.parametrize("setting", ["stop", "skip"])
def test_records_that_are_removed_while_it_reads_stop_it_or_are_counted_to_the_last_one(
    kafka: dict[str, str], slow: dict[str, str], sender: ReliableProducer, topics: Topics, setting: Any
) -> None:
    for number in range(50):
        send(sender, topics, 2, number)  # each one a batch
    with closing(TopicReader(slow, [topics.behaviors], from_beginning=True, on_missing=setting)) as reader:
        values = read(reader, 2, limit=1)
        remove(kafka, topics.behaviors, 2, 48)
        if setting == "stop":
            with pytest.raises(KafkaClientError, match=f"{topics.behaviors}/2.*on_missing_records=skip"):
                list(reader.read_to_end())
            return
        send(sender, topics, 1, 0)  # the other partitions are read on
        values += [value_of(message) for messages in reader.read_to_end() for message in messages]
        while "1/0" not in values:
            values += read(reader, 1)
        assert reader.missing + len(values) == 51
        assert reader.missing >= 40
        assert {"2/48", "2/49"} <= set(values)


@pytest.mark.parametrize("written_since", [1, 40])
def test_a_topic_that_is_recreated_while_it_is_read_ends_reading(
    kafka: dict[str, str], filled: Topics, written_since: int
) -> None:
    """Fewer records than before, or so many that the position lies among them."""
    watch = LogWatch(kafka, interval_s=0.2)
    watch.begin([filled.behaviors])
    with closing(TopicReader(kafka, [filled.behaviors], from_beginning=True, watch=watch)) as reader:
        read(reader, sum(FILLED.values()))
        admin = AdminClient({**kafka, "log_level": 0})
        for deleted in admin.delete_topics([filled.behaviors]).values():
            deleted.result()
        while filled.behaviors in admin.list_topics(timeout=10).topics:
            time.sleep(0.02)
        topic_admin.ensure(kafka, filled, partitions=PARTITIONS, replication=1)
        again = ReliableProducer(kafka)
        for partition in FILLED:
            send(again, filled, partition, *range(written_since))
        with pytest.raises(TopicError, match=f"{filled.behaviors}.* recreated"):
            read_on(reader)


def test_more_partitions_end_reading(kafka: dict[str, str], filled: Topics) -> None:
    watch = LogWatch(kafka, interval_s=0.2)
    watch.begin([filled.behaviors])
    with closing(TopicReader(kafka, [filled.behaviors], from_beginning=True, watch=watch)) as reader:
        admin = AdminClient({**kafka, "log_level": 0})
        for raised in admin.create_partitions([NewPartitions(filled.behaviors, PARTITIONS + 1)]).values():
            raised.result()
        with pytest.raises(TopicError, match=f"{filled.behaviors} has another number of partitions"):
            read_on(reader)


def read_on(reader: TopicReader) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        reader.read(0.1)


def test_reading_to_the_end_of_a_topic_that_is_deleted_ends_with_its_name(
    kafka: dict[str, str], slow: dict[str, str], sender: ReliableProducer, topics: Topics
) -> None:
    for number in range(50):
        send(sender, topics, 2, number)
    with closing(TopicReader(slow, [topics.behaviors], from_beginning=True)) as reader:
        batches = reader.read_to_end(silent_s=2.0)
        next(batches)
        admin = AdminClient({**kafka, "log_level": 0})
        for deleted in admin.delete_topics([topics.behaviors]).values():
            deleted.result()
        with pytest.raises(StreamError, match=topics.behaviors):
            list(batches)

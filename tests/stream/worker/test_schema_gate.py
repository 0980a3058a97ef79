"""A record whose schema is not known waits, with all behind it in its partition, and is dispatched once it is."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, Producer

from stream.kafka.connection import ConnectionHealth
from stream.schema.formats import JsonOnly
from stream.schema.record import RecordBatch
from stream.schema.topics import Topics
from stream.task.task import Task
from stream.worker.consumer import TaskConsumer

NUMBERS = (1, 2)
DEADLINE_S = 30.0


class Waiting(JsonOnly):
    """Formats that are not ready for some values."""

    def __init__(self) -> None:
        self.unready: set[bytes | None] = set()

    def reads(self, _topic: str, /) -> bool:
        return True

    def ready(self, _topic: str, value: bytes | None, /) -> bool:
        return value not in self.unready


class Taken:
    """A task that keeps what it is given, and has no backlog."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []

    def add(self, batch: RecordBatch) -> None:
        self.values += batch.values

    def backlog(self, _topic: str) -> int:
        return 0


class Reading:
    """A consumer of `behaviors` as the worker drives it."""

    def __init__(self, kafka: dict[str, str], topics: Topics, consumer: Consumer) -> None:
        self.topic = topics.behaviors
        self.formats = Waiting()
        self.consumer = TaskConsumer(
            consumer, (self.topic,), ConnectionHealth({}), lambda: consumer, formats=self.formats
        )
        self.consumer.begin({number: {self.topic: 0} for number in NUMBERS})
        self.tasks = {number: Taken() for number in NUMBERS}
        self._producer = Producer({**kafka, "linger.ms": "0"})

    def write(self, number: int, *values: bytes) -> None:
        for value in values:
            self._producer.produce(self.topic, value, partition=number)
        assert self._producer.flush(DEADLINE_S) == 0

    def turn(self) -> None:
        tasks = cast("dict[int, Task]", self.tasks)
        self.consumer.dispatch(self.consumer.receive(0.05), tasks)
        self.consumer.limit_backlogs(tasks)

    def until(self, number: int, values: list[bytes]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.tasks[number].values != values:
            assert time.monotonic() < deadline, (self.tasks[number].values, values)
            self.turn()

    def until_at_end(self, number: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not self.consumer.at_end(self.topic, number):
            assert time.monotonic() < deadline
            self.turn()


@pytest.fixture
def reading(kafka: dict[str, str], topics: Topics) -> Iterator[Reading]:
    own: dict[str, Any] = {"group.id": "nobody's", "enable.partition.eof": True, "auto.offset.reset": "error"}
    with closing(Consumer({**kafka, **own})) as consumer:
        yield Reading(kafka, topics, consumer)


@pytest.mark.broker
def test_what_waits_keeps_its_partition_and_no_other(reading: Reading) -> None:
    reading.formats.unready = {b"b", b"d"}
    reading.write(1, b"a", b"b", b"c", b"d", b"e")
    reading.write(2, b"1", b"2")
    reading.until(1, [b"a"])
    reading.until(2, [b"1", b"2"])
    reading.write(1, b"f")
    reading.write(2, b"3")
    reading.until(2, [b"1", b"2", b"3"])
    reading.until_at_end(2)
    for _ in range(5):
        reading.turn()
        assert reading.tasks[1].values == [b"a"]
        assert not reading.consumer.at_end(reading.topic, 1), "what waits is not read"
    reading.formats.unready = {b"d"}
    reading.until(1, [b"a", b"b", b"c"])
    reading.formats.unready = set()
    reading.until(1, [b"a", b"b", b"c", b"d", b"e", b"f"])
    reading.until_at_end(1)
    reading.write(1, b"g")
    reading.until(1, [b"a", b"b", b"c", b"d", b"e", b"f", b"g"])


@pytest.mark.broker
def test_a_new_assignment_reads_what_waits_once_more(reading: Reading) -> None:
    reading.formats.unready = {b"b"}
    reading.write(1, b"a", b"b", b"c")
    reading.until(1, [b"a"])
    for _ in range(3):
        reading.turn()
    reading.consumer.begin({3: {reading.topic: 0}})
    reading.formats.unready = set()
    reading.until(1, [b"a", b"b", b"c"])
    for _ in range(5):
        reading.turn()
    assert reading.tasks[1].values == [b"a", b"b", b"c"]


@pytest.mark.broker
def test_what_waits_is_forgotten_with_its_partition(reading: Reading) -> None:
    reading.formats.unready = {b"b"}
    reading.write(1, b"a", b"b")
    reading.until(1, [b"a"])
    reading.turn()
    reading.consumer.forget()
    reading.formats.unready = set()
    for _ in range(3):
        reading.consumer.receive(0.05)
    reading.consumer.begin({1: {reading.topic: 1}})
    reading.until(1, [b"a", b"b"])

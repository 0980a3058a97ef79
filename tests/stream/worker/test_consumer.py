"""Reading pauses when one topic runs far ahead of the others, and goes on when it is worked off; nothing is dropped."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from stream.errors import ConsumerFatalError, KafkaClientError, WorkerError
from stream.kafka.connection import ConnectionHealth
from stream.schema.topics import Topics
from stream.task.task import Task
from stream.worker import consumer as intake
from stream.worker.consumer import TaskConsumer

NUMBER = 3
"""Of the partition that is read."""
DEADLINE_S = 20.0


@dataclass
class Waiting:
    """A task of which only the backlog of one topic counts."""

    topic: str
    count: int = 0

    def backlog(self, topic: str) -> int:
        return self.count if topic == self.topic else 0


def client(kafka: dict[str, str]) -> Consumer:
    return Consumer({**kafka, "group.id": "nobody's", "enable.partition.eof": True, "auto.offset.reset": "error"})


@pytest.fixture
def consumer(kafka: dict[str, str]) -> Iterator[Consumer]:
    made = client(kafka)
    yield made
    made.close()


def test_a_topic_that_runs_ahead_is_paused_until_half_of_it_is_worked_off(
    kafka: dict[str, str], topics: Topics, consumer: Consumer
) -> None:
    inputs = (topics.behaviors, topics.impressions, topics.clicks)
    taken = TaskConsumer(consumer, inputs, ConnectionHealth({}), lambda: consumer)
    taken.begin({NUMBER: dict.fromkeys(inputs, 0)})
    producer = Producer(kafka)
    task = Waiting(topics.behaviors)

    def write(topic: str) -> None:
        producer.produce(topic, b"{}", partition=NUMBER)
        assert producer.flush(DEADLINE_S) == 0

    def read(impressions: int, behaviors: int) -> list[str]:
        """Read until so many of both have come; returns the topics of all that came."""
        found: list[str] = []
        deadline = time.monotonic() + DEADLINE_S
        while found.count(topics.impressions) < impressions or found.count(topics.behaviors) < behaviors:
            assert time.monotonic() < deadline, found
            found += [message.topic() or "" for message in taken.receive(0.2) if message.error() is None]
        return found

    most, came = intake._MOST_WAITING, 0
    steps = ((most, False), (most + 1, True), (most * 2, True), (most // 2, True), (most // 2 - 1, False))
    for written, (count, paused) in enumerate(steps, 1):
        task.count = count
        taken.limit_backlogs({NUMBER: cast("Task", task)})
        write(topics.behaviors)
        write(topics.impressions)  # comes whether the other one does or not
        came += read(1, 0 if paused else written - came).count(topics.behaviors)
        assert came == (1 if paused else written), count


def test_an_offset_that_was_not_there_and_is_now_ends_the_worker_unless_it_is_of_an_earlier_assignment(
    kafka: dict[str, str], topics: Topics, consumer: Consumer
) -> None:
    """A topic that is recreated grows beyond the position before anybody asks for its end."""
    inputs = (topics.behaviors, topics.impressions, topics.clicks)
    taken = TaskConsumer(consumer, inputs, ConnectionHealth({}), lambda: consumer)
    producer = Producer(kafka)
    for _ in range(5):
        producer.produce(topics.clicks, b"{}", partition=NUMBER)
    assert producer.flush(DEADLINE_S) == 0
    taken.begin({NUMBER: dict.fromkeys(inputs, 0) | {topics.clicks: 3}})

    def missed(offset: int) -> list[Any]:
        error = KafkaError(KafkaError._AUTO_OFFSET_RESET)
        return [Message(topic=topics.clicks, partition=NUMBER, offset=offset, error=error)]

    taken.dispatch(missed(2), {})
    with pytest.raises(WorkerError, match=f"{topics.clicks}/{NUMBER} had no offset 3 .*recreated"):
        taken.dispatch(missed(3), {})


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (KafkaError._FATAL, ConsumerFatalError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, WorkerError),
        (KafkaError._TRANSPORT, None),
    ],
)
def test_what_the_client_says_ends_the_consumer_the_worker_or_nothing(code: int, error: type[Exception] | None) -> None:
    nobody = client({"bootstrap.servers": "127.0.0.1:1", "log_level": "0"})
    said: Any = Message(topic="behaviors", partition=0, error=KafkaError(code))
    taken = TaskConsumer(nobody, ("behaviors", "impressions", "clicks"), ConnectionHealth({}), lambda: nobody)
    if error is None:
        taken.dispatch([said], {})
    else:
        with pytest.raises(error) as caught:
            taken.dispatch([said], {})
        assert type(caught.value) is error


def test_an_error_that_comes_with_each_fetch_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    nobody = client({"bootstrap.servers": "127.0.0.1:1", "log_level": "0"})
    taken = TaskConsumer(nobody, ("behaviors", "impressions", "clicks"), ConnectionHealth({}), lambda: nobody)
    codes = (KafkaError._TRANSPORT, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.OFFSET_NOT_AVAILABLE)
    said: list[Any] = [Message(topic="behaviors", partition=n, error=KafkaError(c)) for n in range(9) for c in codes]
    for _ in range(5):
        taken.dispatch(said, {})
    told = [record.getMessage() for record in caplog.records if "consume_error" in record.getMessage()]
    # That a topic is gone is told by others.
    assert len(told) == 2, told


def test_a_question_that_cannot_be_closed_keeps_no_member_in_the_group() -> None:
    class Client:
        def __init__(self, error: KafkaError | None = None) -> None:
            self.error = error
            self.closed = False

        def close(self) -> None:
            self.closed = True
            if self.error is not None:
                raise KafkaException(self.error)

    member, asker = Client(), Client(KafkaError(KafkaError._STATE))
    taken = TaskConsumer(cast("Any", member), ("behaviors",), ConnectionHealth({}), lambda: cast("Any", asker))
    with pytest.raises(KafkaClientError, match="could not leave the group in order"):
        taken.close()
    assert (member.closed, asker.closed) == (True, True)

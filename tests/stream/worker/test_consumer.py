"""Reading pauses when one topic runs far ahead of the others, and goes on when it is worked off; nothing is dropped."""

from unittest.mock import MagicMock

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from stream.errors import ConsumerFatalError, WorkerError
from stream.kafka.connection import ConnectionHealth
from stream.worker import consumer as module
from stream.worker.consumer import TaskConsumer

TOPICS = ("behaviors", "impressions", "clicks")


def test_a_topic_that_runs_ahead_is_paused_until_half_of_it_is_worked_off() -> None:
    consumer = MagicMock(spec=Consumer)
    waiting = dict.fromkeys(TOPICS, 0)
    task = MagicMock(backlog=lambda topic: waiting[topic])
    taken = TaskConsumer(consumer, TOPICS, ConnectionHealth({}), MagicMock(spec=Consumer))
    most = module._MOST_WAITING

    for count, paused in ((most, False), (most + 1, True), (most * 2, True), (most // 2, True), (most // 2 - 1, False)):
        waiting["behaviors"] = count
        taken.limit_backlogs({3: task})
        assert consumer.pause.call_count - consumer.resume.call_count == paused, count
    consumer.pause.assert_called_once_with([TopicPartition("behaviors", 3)])
    consumer.resume.assert_called_once_with([TopicPartition("behaviors", 3)])


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (KafkaError._FATAL, ConsumerFatalError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, WorkerError),
        (KafkaError._TRANSPORT, None),
    ],
)
def test_what_the_client_says_ends_the_consumer_the_worker_or_nothing(code: int, error: type[Exception] | None) -> None:
    message = MagicMock(partition=lambda: 0, topic=lambda: "behaviors", error=lambda: KafkaError(code))
    taken = TaskConsumer(MagicMock(spec=Consumer), TOPICS, ConnectionHealth({}), MagicMock(spec=Consumer))
    if error is None:
        taken.dispatch([message], {})
    else:
        with pytest.raises(error) as caught:
            taken.dispatch([message], {})
        assert type(caught.value) is error

"""A topic is gone when a Kafka that answers has not known it for a while, and never before."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.clients import admin
from stream.kafka.connection import ConnectionHealth
from stream.kafka.topic_watch import MissingTopics, unknown_topics
from stream.local.broker import local_broker
from stream.schema.topics import Topics

ANSWERS = st.lists(st.none() | st.sets(st.sampled_from(["clicks", "scores"])), max_size=60)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(answers=ANSWERS)
def test_as_an_oracle_that_looks_back_over_all_answers_says(answers: list[set[str] | None]) -> None:
    clock = Clock()
    missing = MissingTopics(grace_s=30.0, clock=clock)
    gone: set[str] = set()
    for last, answer in enumerate(answers):
        missing.heard(answer)
        clock.now += 5
        if answer is not None:
            seven = answers[max(0, last - 6) : last + 1]  # 30 s lie between the first and the last of seven
            gone = {
                topic
                for topic in answer
                if topic in gone or (len(seven) == 7 and all(each is not None and topic in each for each in seven))
            }
        assert missing.gone == gone
        assert bool(missing.trouble) == bool(gone)


def test_each_topic_is_told_once_when_it_goes_and_once_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    missing = MissingTopics(grace_s=30.0, clock=clock)
    for _ in range(100):
        missing.heard(["shop-clicks"])
        clock.now += 5
    assert "shop-clicks" in missing.trouble
    missing.heard(None)
    assert "shop-clicks" in missing.trouble, "a Kafka that does not answer brings no topic back"
    missing.heard([])
    missing.heard([])
    assert not missing.trouble
    assert caplog.messages == ["topic_gone topic=shop-clicks unknown_for_s=30", "topic_back topic=shop-clicks"]


def test_a_kafka_that_does_not_answer_for_long_is_named_and_forgotten_when_it_does() -> None:
    clock = Clock()
    missing = MissingTopics(grace_s=30.0, clock=clock)
    missing.heard([])
    for _ in range(6):
        assert not missing.silence
        clock.now += 5
        missing.heard(None)
    assert missing.silence == "Kafka has not answered for 30 s"
    assert not missing.trouble
    missing.heard([])
    assert not missing.silence


def cpu_seconds_of_asking(directory: Path) -> float:
    """Return what asking for five seconds takes while Kafka is away."""
    with local_broker("embedded", directory) as broker:
        away = {"bootstrap.servers": broker.bootstrap}
        client = admin(away, ConnectionHealth(away, log_errors=False))
        names = [topic.name for topic in Topics()]
        assert unknown_topics(client, names) == names
        broker.kill()
        assert unknown_topics(client, names) is None
        began, used = time.monotonic(), time.process_time()
        while time.monotonic() - began < 5:
            assert unknown_topics(client, names) is None
        return time.process_time() - used


@pytest.mark.broker
def test_asking_a_kafka_that_is_away_takes_no_processor(tmp_path: Path) -> None:
    """It was up to half a core for as long as the outage lasted: librdkafka's threads woke each other."""
    # In a process of its own: threads that other tests have left take time of this one.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        assert process.submit(cpu_seconds_of_asking, tmp_path).result() < 0.5

"""Erasures as they are written, read, and acknowledged, on a real broker."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from stream.errors import EventError
from stream.kafka.eraser import Acknowledgements, distinct_users, erase
from stream.kafka.erasure_feed import ErasureFeed
from stream.kafka.producer import ReliableProducer
from stream.schema.erasures import Erasures, Void
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS

GROUP = "erasures-of-a-test"
USERS = ["u1", "u2", "nobody"]


@pytest.fixture
def erasures() -> Erasures:
    return Erasures()


@pytest.fixture
def feed(kafka: dict[str, str], topics: Topics, erasures: Erasures) -> Iterator[ErasureFeed]:
    with closing(ErasureFeed(kafka, topics, f"{topics.behaviors}-{GROUP}", erasures)) as feed:
        yield feed


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what


def test_what_is_written_is_read_and_acknowledged(
    kafka: dict[str, str], topics: Topics, erasures: Erasures, feed: ErasureFeed
) -> None:
    sender = ReliableProducer(kafka)
    sender.send(topics.behaviors, b'{"user":"u1","item":"i","ts":1}', key=b"u1")
    sender.send(topics.clicks, b"{}", key=b"u1")
    sender.flush()
    first = erase(kafka, topics, USERS, clock=lambda: 12.0)
    feed.start()
    wait(lambda: len(erasures) == 3, "the erasures to be read")
    [of_u1] = [each for each in erasures.of(partition_of(b"u1", PARTITIONS)).since(0) if each.user == "u1"]
    assert (of_u1.void, of_u1.at) == (Void(first[0].marker, 1), 12_000)
    assert first[0].marker >= 1
    later = erase(kafka, topics, ["u1"])
    wait(lambda: len(erasures) == 4, "the erasure to be read")
    with closing(Acknowledgements(kafka, topics, f"{topics.behaviors}-{GROUP}")) as told:
        assert told.left([*first, *later]) == 4
        feed.acknowledge(
            {number: erasures.of(number).position(len(erasures.of(number))) for number in range(PARTITIONS)}
        )
        wait(lambda: told.left([*first, *later]) == 0, "the acknowledgement")


def test_what_is_no_erasure_is_passed_over_and_said(
    kafka: dict[str, str], topics: Topics, erasures: Erasures, feed: ErasureFeed, caplog: pytest.LogCaptureFixture
) -> None:
    sender = ReliableProducer(kafka)
    sender.send(topics.erasures, b"not JSON", key=b"u1")
    sender.flush()
    erase(kafka, topics, ["u1"])
    feed.start()
    wait(lambda: len(erasures) == 1, "the erasure to be read")
    assert "erasure_refused" in caplog.text


def test_an_erasure_of_a_topic_that_was_recreated_voids_nothing(
    kafka: dict[str, str], topics: Topics, erasures: Erasures, feed: ErasureFeed
) -> None:
    value = b'{"user":"u1","behaviors":{"offset":7,"topic_id":"%s"},"clicks":{"offset":3},"at":1}'
    sender = ReliableProducer(kafka)
    for topic_id in (b"another", b""):
        sender.send(topics.erasures, value % topic_id, key=b"u1")
    sender.flush()
    feed.start()
    wait(lambda: len(erasures) == 2, "the erasures to be read")
    found = [each.void for each in erasures.of(partition_of(b"u1", PARTITIONS)).since(0)]
    assert found in ([Void(-1, 3), Void(7, 3)], [Void(7, 3), Void(7, 3)])  # a broker may have no topic ids


def test_users_who_cannot_be_are_refused() -> None:
    assert distinct_users(["a", "b", "a"]) == ["a", "b"]
    for wrong in ([], [""], ["x" * 257], ["a\nb"]):
        with pytest.raises(EventError):
            distinct_users(wrong)

"""A refused record is found again, byte for byte, with its reason and its origin."""

import time

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.dead_letters import make_dead_letter, send_dead_letter
from stream.kafka.producer import ReliableProducer
from stream.schema.record import Record
from stream.schema.topics import RECORD_BYTES, Topics

ORIGIN = {"topic": "clicks", "partition": "3", "offset": "17", "timestamp": "1700000000000"}


def _record(key: bytes | None, value: bytes | None) -> Record:
    return Record("clicks", 3, 17, 1_700_000_000_000, key, value)


@given(
    key=st.none() | st.binary(max_size=64),
    value=st.none() | st.binary(max_size=256),
    reason=st.text(st.characters(), max_size=64),
)
def test_keeps_every_byte_and_says_where_it_came_from(key: bytes | None, value: bytes | None, reason: str) -> None:
    kept_key, kept_value, headers = make_dead_letter(_record(key, value), reason, by="worker")
    assert (kept_key, kept_value) == (key, value)
    names = dict(headers)
    assert isinstance(said := names.pop("reason"), bytes)
    assert said.decode() == reason.encode(errors="backslashreplace").decode()
    assert names == ORIGIN | {"refused-by": "worker"}


def test_what_does_not_fit_is_cut_and_says_so() -> None:
    value = bytes(range(256)) * 20_000
    key, kept, headers = make_dead_letter(_record(b"k" * 2_000_000, value), "ü" * 1_000_000, by="trainer")
    names = dict(headers)
    assert kept == value[: len(kept or b"")]
    assert names["value-bytes"] == str(len(value))
    assert names["key-bytes"] == "2000000"
    assert isinstance(reason := names["reason"], bytes)
    assert reason.decode().strip("ü") == ""
    total = len(kept or b"") + len(key or b"") + sum(len(str(said)) for said in names.values())
    assert total < 1_000_000


def _read(kafka: dict[str, str], topic: str, count: int) -> list[Message]:
    consumer = Consumer({**kafka, "group.id": "test"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    deadline = time.monotonic() + 20
    messages: list[Message] = []
    while len(messages) < count:
        assert time.monotonic() < deadline, f"{len(messages)} of {count} dead letters"
        messages += [message for message in consumer.consume(count, 0.2) if message.error() is None]
    consumer.close()
    return messages


@pytest.mark.parametrize("size", [0, 3, RECORD_BYTES, 5_000_000])
def test_any_size_reaches_the_broker(kafka: dict[str, str], topics: Topics, size: int) -> None:
    value = b"\xff" * size
    sender = ReliableProducer(kafka)
    send_dead_letter(sender, topics, _record(b"\x00user", value), "not JSON")
    send_dead_letter(sender, topics, _record(None, None), "no value")
    sender.flush()
    first, second = _read(kafka, topics.dead_letters, 2)
    assert first.key() == b"\x00user"
    assert first.value() == value[:RECORD_BYTES]
    headers = dict(first.headers() or [])
    assert headers["reason"] == b"not JSON"
    assert {name: headers[name] for name in ORIGIN} == {name: value.encode() for name, value in ORIGIN.items()}
    assert ("value-bytes" in headers) == (size > RECORD_BYTES)
    assert (second.key(), second.value()) == (None, None)

"""A refused record is found again, byte for byte, with its reason and its origin."""

import time
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.dead_letters import make_dead_letter, send_dead_letter, to_letter
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


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20) | st.sampled_from(
    ["reason", "topic", "offset", "original-reason", "original-", "headers-left-out"]
)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=20)), max_size=6).map(tuple)


class DeadLetter:
    """A dead letter as a client brings it."""

    def __init__(self, key: bytes | None, value: bytes | None, headers: Any) -> None:
        self._key, self._value, self._headers = key, value, headers

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Any:
        return [(name, text.encode() if isinstance(text, str) else text) for name, text in self._headers]

    def topic(self) -> str:
        return "dead-letters"

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return 5

    def timestamp(self) -> tuple[int, int]:
        return 0, 1


@given(headers=HEADERS)
def test_its_own_headers_come_back_as_they_were_whatever_their_names(
    headers: tuple[tuple[str, bytes | None], ...],
) -> None:
    record = _record(b"key", b"value")._replace(headers=headers)
    letter = to_letter(DeadLetter(*make_dead_letter(record, "no", by="worker")))  # type: ignore[arg-type]
    assert letter is not None
    assert letter.origin == record
    assert (letter.reason, letter.refused_by, letter.cut) == ("no", "worker", False)


def test_headers_that_do_not_fit_are_counted_and_the_letter_is_cut() -> None:
    headers = tuple((f"trace-{number}", b"x" * 1000) for number in range(2000))
    record = _record(b"key", b"v" * 900_000)._replace(headers=headers)
    key, value, kept = make_dead_letter(record, "no", by="worker", most=1_000_000)
    total = sum(len(name) + len(text or b"") for name, text in kept) + len(key or b"") + len(value or b"")
    assert total < 1_000_000
    assert ("headers-left-out", str(2000 - sum(name.startswith("trace-") for name, _ in kept))) in kept
    letter = to_letter(DeadLetter(key, value, kept))  # type: ignore[arg-type]
    assert letter is not None
    assert letter.cut
    assert letter.origin.headers == headers[: len(letter.origin.headers)]
    assert len(letter.origin.headers) > 50


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

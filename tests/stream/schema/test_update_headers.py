"""Headers of model updates: what is announced is read again, and what is no announcement is none."""

import time

import pytest

from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.schema.topics import Topics
from stream.schema.update_headers import UpdateHeaders, read_update_headers

Headers = list[tuple[str, str | bytes | None]]
ANNOUNCED = UpdateHeaders(
    arm="din-50", kind="delta", epoch=3, version=17, samples=12_345, clicks=(1_700_000_000_123, 5)
)


def as_read(headers: Headers | None) -> Headers | None:
    """The headers of a consumed message: Kafka hands every value back as bytes, and None where there is no header."""
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in headers or ()] or None


def test_what_is_announced_through_kafka_is_read_again(kafka: dict[str, str], topics: Topics) -> None:
    base = UpdateHeaders(arm="sam", kind="base", epoch=1, version=0, samples=0)
    sender = ReliableProducer(kafka)
    for announced in (base, ANNOUNCED):
        sender.send(topics.model_updates, b"part 1", key="k/0", partition=0, headers=announced.headers())
        sender.send(topics.model_updates, b"part 2", key="k/1", partition=0)
    sender.flush()
    tail = TopicReader(kafka, [topics.model_updates], from_beginning=True)
    read, deadline = [], time.monotonic() + 20
    while not tail.at_end():
        assert time.monotonic() < deadline
        read += [read_update_headers(message.headers()) for message in tail.read(1.0)]
    tail.close()
    assert read == [base, None, ANNOUNCED, None]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 123_456])
def test_of_many_clicks_an_even_choice_is_told(count: int) -> None:
    clicks = tuple(range(count))
    announced = UpdateHeaders(arm="a", kind="delta", epoch=1, version=1, samples=count, clicks=clicks)
    read = read_update_headers(as_read(announced.headers()))
    assert read is not None
    assert len(read.clicks) <= 1000
    assert len(read.clicks) >= min(count, 500)
    assert set(read.clicks) <= set(clicks)
    steps = {after - before for before, after in zip(read.clicks, read.clicks[1:], strict=False)}
    assert len(steps) <= 1
    if count <= 1000:
        assert read.clicks == clicks


def changed(**values: str | bytes | None) -> Headers:
    return [(name, values.get(name, value)) for name, value in ANNOUNCED.headers()]


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [("trace-id", "abc")],
        [("arm", "sam")],
        [pair for pair in ANNOUNCED.headers() if pair[0] != "clicks"],
        changed(epoch="first"),
        changed(epoch=None),
        changed(arm=None),
        changed(arm=b"\xff"),
        changed(version=b""),
        changed(samples="1.5"),
        changed(clicks=b"123"),
        changed(clicks=None),
        changed(clicks=b"12345678" * 1001),
        changed(epoch="-1"),
        changed(epoch=str(2**62)),
        changed(version="9" * 4000),
        changed(samples="9" * 400_000),
    ],
)
def test_a_foreign_record_announces_nothing(headers: Headers | None) -> None:
    assert read_update_headers(as_read(ANNOUNCED.headers())) == ANNOUNCED
    assert read_update_headers(as_read(headers)) is None

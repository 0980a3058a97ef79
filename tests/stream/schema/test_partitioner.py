"""The partition that we name is the one that Kafka's clients choose."""

import random

import pytest
from confluent_kafka import Message

from stream.kafka.producer import ReliableProducer
from stream.schema.partitioner import partition_of
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS

JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}
"""Key → `Utils.murmur2` of it, from the tests of Apache Kafka."""


@pytest.mark.parametrize(("key", "hashed"), JAVA.items())
@pytest.mark.parametrize("partitions", [1, 7, 64, 2**31])
def test_it_is_the_hash_of_the_java_clients(key: bytes, hashed: int, partitions: int) -> None:
    assert partition_of(key, partitions) == (hashed & 0x7FFF_FFFF) % partitions


def test_keys_of_every_length_lie_where_librdkafka_puts_them(kafka: dict[str, str], topics: Topics) -> None:
    dice = random.Random(1)
    # An empty key is left out: librdkafka takes it for none, and sends it anywhere.
    keys = [dice.randbytes(length) for length in range(1, 70)]
    keys += [f"user-{number}".encode() for number in range(300)]
    keys += ["zoë".encode(), "用户".encode(), b"\xff" * 5, b"\x80\x00\x00\x80", b"\x00"]
    found: dict[bytes, int | None] = {}

    def delivered(message: Message) -> None:
        key = message.key()
        assert key is not None
        found[key] = message.partition()

    sender = ReliableProducer(kafka)
    for key in keys:
        sender.send(topics.behaviors, b"", key=key, partition=-1, on_delivery=delivered)
    sender.flush()
    assert found == {key: partition_of(key, PARTITIONS) for key in keys}
    assert set(found.values()) == set(range(PARTITIONS))

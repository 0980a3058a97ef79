"""The proxy that gives the embedded broker long polling: what it reads of Kafka's protocol, and what comes of it."""

import asyncio
import struct
import threading
import time

import psutil
import pytest
from confluent_kafka import Consumer, TopicPartition

from stream.kafka.producer import ReliableProducer
from stream.local.broker import Broker
from stream.local.long_poll import Proxy, fetched_topics, is_empty, produced_topics, with_last_versions
from stream.schema.topics import Topics
from tests.e2e.harness import wait_for

WAIT_S = 3.0
REST_S = 0.5


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def fetch_response(*records: bytes, error: int = 0, aborted: int = 0) -> bytes:
    partitions = b"".join(
        struct.pack(">ihqqqi", number, error, 7, 7, 0, aborted)
        + b"\0" * 16 * max(0, aborted)
        + struct.pack(">ii", -1, len(content))
        + content
        for number, content in enumerate(records)
    )
    topic = text("scores") + struct.pack(">i", len(records)) + partitions
    return struct.pack(">iihii", 5, 0, 0, 0, 2) + topic + topic


def test_a_fetch_response_is_empty_when_no_partition_brings_records_or_an_error() -> None:
    assert is_empty(fetch_response(b"", b"", b""))
    assert is_empty(fetch_response(b"", b"", aborted=2))
    assert is_empty(fetch_response(b"", aborted=-1))
    assert not is_empty(fetch_response(b"", b"batch"))
    assert not is_empty(fetch_response(b"", error=1))
    assert not is_empty(struct.pack(">iihii", 5, 0, 71, 0, 0)), "an error of the whole response"


def test_the_topics_of_requests_are_read() -> None:
    head = struct.pack(">hhi", 1, 11, 5) + text("client")
    partition = b"\0" * 28
    topics = b"".join(text(name) + struct.pack(">i", 2) + 2 * partition for name in ("clicks", "scores"))
    fetch = head + struct.pack(">iiiibii", -1, 500, 1, 1000, 1, 0, -1) + struct.pack(">i", 2) + topics
    assert fetched_topics(fetch) == (0.5, {b"clicks", b"scores"})
    head = struct.pack(">hhi", 0, 8, 5) + text("client") + struct.pack(">h", -1) + struct.pack(">hi", -1, 1000)
    partitions = struct.pack(">ii", 0, 3) + b"abc" + struct.pack(">ii", 1, 0)
    topics = b"".join(text(name) + struct.pack(">i", 2) + partitions for name in ("clicks", "scores"))
    assert produced_topics(head + struct.pack(">i", 2) + topics) == {b"clicks", b"scores"}


@pytest.mark.parametrize("version", [0, 2, 3])
def test_only_versions_that_are_not_understood_are_withheld(version: int) -> None:
    def offer(produce: int, fetch: int) -> bytes:
        apis = [(0, 0, produce), (1, 4, fetch), (9, 0, 9), (18, 0, 13)]
        if version == 3:
            entries = b"".join(struct.pack(">hhhb", *api, 0) for api in apis)
            return struct.pack(">ihb", 7, 0, len(apis) + 1) + entries + b"\0" * 5
        return struct.pack(">ihi", 7, 0, len(apis)) + b"".join(struct.pack(">hhh", *api) for api in apis) + b"\0" * 4

    assert with_last_versions(offer(9, 13), version) == offer(8, 11)
    assert with_last_versions(offer(7, 5), version) == offer(7, 5)
    refused = struct.pack(">ihi", 7, 35, 1) + struct.pack(">hhh", 18, 0, 3)
    assert with_last_versions(refused, version) == refused


async def frame_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def framed(content: bytes) -> bytes:
    return struct.pack(">i", len(content)) + content


async def answered_after_a_write() -> bytes:
    """Return what a fetch gets whose empty answer was on its way while a record was written on another connection."""
    fetch = struct.pack(">hhi", 1, 11, 5) + text("client") + struct.pack(">iiiibii", -1, 60_000, 1, 1000, 1, 0, -1)
    fetch += struct.pack(">i", 1) + text("scores") + struct.pack(">i", 1) + b"\0" * 28
    produce = struct.pack(">hhi", 0, 8, 5) + text("client") + struct.pack(">h", -1) + struct.pack(">hi", -1, 1000)
    produce += struct.pack(">i", 1) + text("scores") + struct.pack(">iii", 1, 0, 0)
    fetched, written = asyncio.Event(), asyncio.Event()

    async def broker(requests: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        if (await frame_of(requests)).startswith(fetch[:2]):
            fetched.set()
            await written.wait()
            answers.write(framed(fetch_response(b"")))
        else:
            answers.write(framed(struct.pack(">i", 5)))
        answers.close()

    behind = await asyncio.start_server(broker, "127.0.0.2", 0)
    port = behind.sockets[0].getsockname()[1]
    front = await asyncio.start_server(Proxy("127.0.0.1", "127.0.0.2", port).serve, "127.0.0.1", 0)
    async with behind, front:
        ways = [await asyncio.open_connection(*front.sockets[0].getsockname()) for _ in range(2)]
        (reader, reads), (acknowledged, writes) = ways
        reads.write(framed(fetch))
        await fetched.wait()
        writes.write(framed(produce))
        await frame_of(acknowledged)
        written.set()
        try:
            return await asyncio.wait_for(frame_of(reader), 20)
        finally:
            reads.close()
            writes.close()


def test_a_record_that_is_written_while_an_empty_answer_is_on_its_way_is_not_waited_for() -> None:
    assert is_empty(asyncio.run(answered_after_a_write()))


def consumer_of(kafka: dict[str, str], topic: str, **properties: str) -> Consumer:
    consumer = Consumer({**kafka, "group.id": "longpoll", "auto.offset.reset": "earliest", **properties})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(4)])
    return consumer


def test_who_waits_for_records_gets_them_as_soon_as_they_are_written(kafka: dict[str, str], topics: Topics) -> None:
    sender = ReliableProducer(kafka)
    # Far longer than a busy machine takes, so that what is written, and nothing else, ends a wait in time.
    consumer = consumer_of(kafka, topics.clicks, **{"fetch.wait.max.ms": "5000"})
    try:
        assert consumer.poll(1.0) is None
        delays = []
        for number in range(20):
            began = time.monotonic()
            sender.send(topics.clicks, b"x", key=str(number))
            threading.Thread(target=sender.flush).start()
            assert consumer.poll(10.0) is not None
            delays.append(time.monotonic() - began)
        assert sorted(delays)[10] < 1.0, "the median of a wait that may take five seconds"
    finally:
        consumer.close()


def test_who_waits_in_vain_leaves_the_broker_in_peace(broker: Broker, kafka: dict[str, str], topics: Topics) -> None:
    if broker.process is None:
        pytest.skip("the broker runs elsewhere: its processes cannot be watched")
    engine = psutil.Process(broker.process.pid)
    processes = [engine, *engine.children(recursive=True)]

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def at_rest() -> bool:
        before = used()
        time.sleep(REST_S)
        return used() - before < REST_S / 2

    # It may still be at work for the tests before, whose broker it is as well.
    wait_for(at_rest, "the broker to have done what other tests left")
    consumer = consumer_of(kafka, topics.clicks)
    try:
        consumer.poll(1.0)
        before = used()
        assert consumer.poll(WAIT_S) is None
        assert used() - before < WAIT_S / 2, "a consumer that asks on and on takes two cores"
    finally:
        consumer.close()

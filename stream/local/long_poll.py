"""Long polling for a local broker that lacks it: a proxy that holds empty fetch responses until there is something.

Apache Kafka answers a fetch when there are records, or after the time that the client allows (KIP-41). The embedded
broker answers at once, and every consumer on it asks again at once: an idle system then takes two cores. The proxy
listens where clients connect, runs the broker behind itself on another loopback address, and lets all else through
untouched but for that address. Run as `python -m stream.local.long_poll HOST HOST PORT COMMAND…`.

What it reads of the protocol is in Kafka's guide (https://kafka.apache.org/protocol): Produce up to version 8 and
Fetch up to version 11, the last ones before flexible encodings. It has the broker offer no later ones.
"""

import asyncio
import contextlib
import signal
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from stream.local.processes import kill_with_parent

PRODUCE, FETCH, METADATA, FIND_COORDINATOR, API_VERSIONS = 0, 1, 3, 10, 18
LAST_VERSION = {PRODUCE: 8, FETCH: 11}

_LIMIT = 1 << 20


class Reader:
    """Reads the primitive types of Kafka's protocol, big-endian, from a frame."""

    def __init__(self, frame: bytes, at: int = 0) -> None:
        self._frame = frame
        self.at = at

    def number(self, size: int) -> int:
        """Read a signed integer of so many bytes."""
        self.at += size
        return int.from_bytes(self._frame[self.at - size : self.at], "big", signed=True)

    def skip(self, size: int) -> None:
        """Pass over so many bytes."""
        self.at += size

    def text(self) -> bytes:
        """Read a (nullable) string."""
        length = max(0, self.number(2))
        self.at += length
        return self._frame[self.at - length : self.at]

    def skip_bytes(self) -> int:
        """Pass over (nullable) bytes; returns their length."""
        length = max(0, self.number(4))
        self.at += length
        return length


def produced_topics(request: bytes) -> set[bytes]:
    """Return the topics of a Produce request, versions 3 to 8."""
    reader = Reader(request, 8)
    reader.text()  # client id
    reader.text()  # transactional id
    reader.skip(6)  # acks, timeout
    topics = set()
    for _ in range(reader.number(4)):
        topics.add(reader.text())
        for _ in range(reader.number(4)):
            reader.skip(4)  # partition
            reader.skip_bytes()
    return topics


def fetched_topics(request: bytes) -> tuple[float, set[bytes]]:
    """Return the longest wait in seconds, and the topics, of a Fetch request of version 11."""
    reader = Reader(request, 8)
    reader.text()  # client id
    reader.skip(4)  # replica id
    wait_s = reader.number(4) / 1000
    reader.skip(17)  # least and most bytes, isolation level, session
    topics = set()
    for _ in range(reader.number(4)):
        topics.add(reader.text())
        reader.skip(28 * reader.number(4))
    return wait_s, topics


def is_empty(response: bytes) -> bool:
    """Say whether a Fetch response of version 11 brings neither records nor an error."""
    reader = Reader(response, 8)  # correlation id, throttle time
    if reader.number(2):
        return False
    reader.skip(4)  # session
    for _ in range(reader.number(4)):
        reader.text()
        for _ in range(reader.number(4)):
            reader.skip(4)  # partition
            if reader.number(2):
                return False
            reader.skip(24)  # three offsets
            reader.skip(16 * max(0, reader.number(4)))  # aborted transactions
            reader.skip(4)  # preferred replica
            if reader.skip_bytes():
                return False
    return True


class _Asked(NamedTuple):
    """What a client has asked, and how many writes the broker had answered by then."""

    api: int
    version: int
    writes: int
    frame: bytes


_NOTHING = _Asked(-1, -1, 0, b"")


class Proxy:
    """Forwards connections to the broker.

    Args:
        host: where clients connect.
        target: where the broker is; as many characters as `host`, which takes its place in what the broker says.
        port: of both.
    """

    def __init__(self, host: str, target: str, port: int) -> None:
        if len(host) != len(target):
            raise ValueError(f"{host} cannot take the place of {target} in a frame: they differ in length")
        self._target = target
        self._port = port
        self._host, self._behind = host.encode(), target.encode()
        self._waiting: dict[bytes, set[asyncio.Event]] = defaultdict(set)
        self._writes = 0
        self._written: dict[bytes, int] = {}
        """Topic → the number of the newest write to it."""

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Forward one client's connection until either side ends it."""
        with contextlib.suppress(OSError):
            broker, requests = await asyncio.open_connection(self._target, self._port, limit=_LIMIT)
            asked: dict[int, _Asked] = {}
            ways = [
                asyncio.create_task(self._forward_requests(client, requests, asked)),
                asyncio.create_task(self._forward_answers(broker, answers, asked)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            requests.close()
        answers.close()

    async def _forward_requests(
        self, client: asyncio.StreamReader, broker: asyncio.StreamWriter, asked: dict[int, _Asked]
    ) -> None:
        while True:
            size = await client.readexactly(4)
            frame = await client.readexactly(int.from_bytes(size, "big"))
            api, version, correlation = struct.unpack_from(">hhi", frame)
            asked[correlation] = _Asked(api, version, self._writes, frame if api in LAST_VERSION else b"")
            broker.write(size + frame)
            await broker.drain()

    async def _forward_answers(
        self, broker: asyncio.StreamReader, client: asyncio.StreamWriter, asked: dict[int, _Asked]
    ) -> None:
        while True:
            size = await broker.readexactly(4)
            frame = await broker.readexactly(int.from_bytes(size, "big"))
            api, version, writes, request = asked.pop(int.from_bytes(frame[:4], "big", signed=True), _NOTHING)
            if api == FETCH and version == LAST_VERSION[FETCH] and is_empty(frame):
                await self._hold(request, writes)
            elif api == PRODUCE:
                self._writes += 1
                for topic in produced_topics(request):
                    self._written[topic] = self._writes
                    for event in self._waiting[topic]:
                        event.set()
            elif api in (METADATA, FIND_COORDINATOR):
                frame = frame.replace(self._behind, self._host)
            elif api == API_VERSIONS:
                frame = with_last_versions(frame, version)
            client.write(size + frame)
            await client.drain()

    async def _hold(self, request: bytes, writes: int) -> None:
        """Wait until something was written to a topic since it was asked for, or for as long as the request allows."""
        wait_s, topics = fetched_topics(request)
        if any(self._written.get(topic, 0) > writes for topic in topics):
            return  # on another connection, while the answer was on its way
        news = asyncio.Event()
        for topic in topics:
            self._waiting[topic].add(news)
        try:
            await asyncio.wait_for(news.wait(), wait_s)
        except TimeoutError:
            pass
        finally:
            for topic in topics:
                self._waiting[topic].discard(news)


def with_last_versions(response: bytes, version: int) -> bytes:
    """Lower the newest versions that an ApiVersions response (version 0 to 3) offers to those understood here."""
    flexible = version >= 3
    if int.from_bytes(response[4:6], "big"):
        return response
    count, at = (response[6] - 1, 7) if flexible else (int.from_bytes(response[6:10], "big"), 10)
    lowered = bytearray(response)
    for place in range(at, at + count * (6 + flexible), 6 + flexible):
        api, first, last = struct.unpack_from(">hhh", response, place)
        struct.pack_into(">hhh", lowered, place, api, first, min(last, LAST_VERSION.get(api, last)))
    return bytes(lowered)


async def run(host: str, target: str, port: int, command: Sequence[str]) -> int:
    """Run the broker and forward to it until SIGTERM or its end; returns its exit status."""
    process = subprocess.Popen(command, preexec_fn=kill_with_parent)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.terminate)
    server = await asyncio.start_server(Proxy(host, target, port).serve, host, port, limit=_LIMIT)
    status = await asyncio.to_thread(process.wait)
    server.close()
    return status


def main(arguments: Sequence[str]) -> int:
    """Run `HOST TARGET PORT COMMAND…`."""
    host, target, port, *command = arguments
    return asyncio.run(run(host, target, int(port), command))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

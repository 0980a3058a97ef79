"""Writes records from an event loop: it is never blocked, and what Kafka has not acknowledged is bounded."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from confluent_kafka import Message

from stream.errors import KafkaClientError
from stream.gateway.checker import NewRecord
from stream.gateway.problems import ProblemError
from stream.kafka.producer import ReliableProducer

_POLL_S = 0.1
_RETRY_S = 1


class RecordWriter:
    """The producing side of a gateway.

    Args:
        sender: where records go; nobody else uses it.
        limit: records that may be unacknowledged, but for withdrawals.
        ack_s: how long `write` waits for Kafka.
        fail: is called, in any thread, with what makes the producer useless.
    """

    def __init__(
        self, sender: ReliableProducer, *, limit: int, ack_s: float, fail: Callable[[Exception], None]
    ) -> None:
        self._sender = sender
        self._limit = limit
        self._ack_s = ack_s
        self._fail = fail
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="gateway-writer", daemon=True)
        self._thread.start()

    @property
    def unacknowledged(self) -> int:
        """Records that Kafka has not acknowledged yet."""
        return self._sender.waiting

    def send(self, record: NewRecord, *, acknowledged: Callable[[Message], None] | None = None) -> None:
        """Hand a record to Kafka's client, which has room for it: `check_room` is asked before new work is taken.

        Raises:
            ProblemError: 503, when the client is of no use any more.
        """
        try:
            self._sender.send(record.topic, record.value, key=record.user, on_delivery=acknowledged)
        except KafkaClientError as error:
            self._fail(error)
            raise ProblemError(503, str(error), retry_after_s=_RETRY_S) from None

    def check_room(self, records: int = 1) -> None:
        """See that so many more records may be written.

        Raises:
            ProblemError: 503, when Kafka has not acknowledged too many.
        """
        if (waiting := self._sender.waiting) + records > self._limit:
            text = f"Kafka has not acknowledged {waiting} records yet (gateway.max_unacknowledged={self._limit})"
            raise ProblemError(503, text, retry_after_s=_RETRY_S)

    async def write(self, records: Sequence[NewRecord]) -> None:
        """Write records; returns when Kafka has acknowledged all of them.

        Raises:
            ProblemError: 503, when there is no room for them, or Kafka takes too long; they may then be written all the
                same.
        """
        self.check_room(len(records))
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        left = len(records)

        def count() -> None:
            nonlocal left
            left -= 1
            if not left and not done.done():
                done.set_result(None)

        def acknowledged(_: Message) -> None:
            loop.call_soon_threadsafe(count)

        for record in records:
            self.send(record, acknowledged=acknowledged)
        try:
            await asyncio.wait_for(done, self._ack_s)
        except TimeoutError:
            text = (
                f"Kafka has not acknowledged {left} of {len(records)} records within {self._ack_s:g} s; they may be"
                " written yet. Sent again, behaviours count twice, clicks do not"
            )
            raise ProblemError(503, text, retry_after_s=_RETRY_S) from None

    def close(self, wait_s: float) -> int:
        """Wait until Kafka has everything, up to `wait_s`; returns how many records it does not have."""
        self._stop.set()
        self._thread.join()
        deadline = time.monotonic() + wait_s
        with suppress(KafkaClientError):  # what is left is counted
            while self._sender.waiting and time.monotonic() < deadline:
                self._sender.poll(_POLL_S)
        return self._sender.waiting

    def _poll(self) -> None:
        try:
            while not self._stop.is_set():
                self._sender.poll(_POLL_S)
        except Exception as error:
            self._fail(error)

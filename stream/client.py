"""The client of an application: it writes behaviours, impressions and clicks, and receives scores.

Example:
    from stream.client import Client
    from stream.schema.events import Candidate
    from stream.schema.topics import Topics

    with Client({"bootstrap.servers": "localhost:9092"}, Topics()) as client:
        client.behavior("ada", "item-7", category="books")
        request_id = client.impression("ada", [Candidate("item-1", "books"), Candidate("item-2", "films")], slots=1)
        score = client.scores(request_id)
        best = score.items[score.order[0]]
        client.click(request_id, "ada", best)
"""

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from stream.errors import EventError, NoAnswerError
from stream.kafka.clients import check_connection
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.schema.events import (
    DECODE_ERRORS,
    Behavior,
    Candidate,
    Click,
    Impression,
    Score,
    decode_behavior,
    decode_click,
    decode_impression,
    decode_score,
    encode_json,
)
from stream.schema.topics import Topics

# Unlike a worker, an application should get an error when Kafka is down rather than wait for ever.
_PRODUCER = {"message.timeout.ms": "120000", "linger.ms": "1"}
_READ_S = 0.1


class Arrival(NamedTuple):
    """A score, and when it was received, in seconds of the client's clock."""

    score: Score
    received: float


class Client:
    """A connection to samstream's topics; threads may share it.

    Events are validated before they are written, since a worker would send an invalid one to the dead letters. They are
    sent in the background. A write blocks while the producer's buffer is full. When Kafka does not take an event, the
    next call raises an error, `flush` or `close` at the latest.

    A thread receives scores from the first call of `impression`, `scores` or `poll_scores` on. It receives the scores
    of all clients, so a limited number of scores that nobody has asked for is kept, and the oldest are dropped first.
    After a crash, a worker may answer a request a second time, with the same `request_id`.

    Args:
        kafka: librdkafka properties.
        topics: the names of the topics.
        clock: returns seconds since the Unix epoch; used for events without a time, and for the times of arrivals.
        keep: how many unclaimed scores are kept.
        wait_s: how long to wait for Kafka at the start, in seconds.

    Raises:
        SettingsError: when librdkafka does not accept the properties.
        KafkaClientError: when Kafka does not answer within `wait_s`, or refuses this client.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topics: Topics,
        *,
        clock: Callable[[], float] = time.time,
        keep: int = 10_000,
        wait_s: float = 30.0,
    ) -> None:
        check_connection(kafka, wait_s=wait_s)
        self._kafka = kafka
        self._topics = topics
        self._clock = clock
        self._keep = keep
        self._sender = ReliableProducer({**_PRODUCER, **kafka})
        self._arrived = threading.Condition()
        self._answers: OrderedDict[str, Arrival] = OrderedDict()
        self._reader: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self.dropped = 0
        """Number of scores that were dropped unclaimed."""
        self.malformed = 0
        """Number of records in the topic `scores` that are not scores."""

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error without flushing, since Kafka itself may be the cause."""
        self.close(flush=kind is None)

    def behavior(self, user: str, item: str, ts: int | None = None, category: str = "", action: str = "view") -> None:
        """Write that `user` did `action` with `item` at `ts` (ms since the Unix epoch; None: now).

        Raises:
            EventError: for an invalid field.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        event = Behavior(user, item, self._time(ts), category, action)
        self._sender.send(self._topics.behaviors, _checked(event, decode_behavior), key=user)

    def impression(
        self,
        user: str,
        candidates: Sequence[Candidate],
        slots: int = 10,
        request_id: str | None = None,
        ts: int | None = None,
    ) -> str:
        """Request the click probabilities of `candidates`, of which the best `slots` will be shown.

        Returns:
            The request's id, for `scores` and `click`.

        Raises:
            EventError: for an invalid field.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        self._listen()
        request_id = uuid.uuid4().hex if request_id is None else request_id
        event = Impression(request_id, user, self._time(ts), list(candidates), slots)
        self._sender.send(self._topics.impressions, _checked(event, decode_impression), key=user)
        return request_id

    def click(
        self,
        request_id: str,
        user: str,
        item: str,
        ts: int | None = None,
        category: str = "",
        action: str = "click",
    ) -> None:
        """Write that `user` clicked `item` of request `request_id`; also writes the click as a behaviour.

        Raises:
            EventError: for an invalid field.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        ts = self._time(ts)
        click = _checked(Click(request_id, user, item, ts), decode_click)
        behavior = _checked(Behavior(user, item, ts, category, action), decode_behavior)
        self._sender.send(self._topics.clicks, click, key=user)
        self._sender.send(self._topics.behaviors, behavior, key=user)

    def scores(self, request_id: str, timeout: float = 5.0) -> Score:
        """Wait for the score of a request, and claim it.

        Raises:
            NoAnswerError: when no score arrives within `timeout` seconds.
            StreamError: when Kafka did not take an event, or scores can no longer be read.
        """
        self._listen()
        with self._arrived:
            self._arrived.wait_for(lambda: request_id in self._answers or self._failure is not None, timeout)
            if (arrival := self._answers.pop(request_id, None)) is not None:
                return arrival.score
        self._check()
        raise NoAnswerError(
            f"no answer to request {request_id!r} within {timeout:g} s: is a worker running (`samstream worker`),"
            f" and did it accept the impression? Refused records are in {self._topics.dead_letters}, with the reason."
        )

    def poll_scores(self, timeout: float = 0.0) -> list[Arrival]:
        """Claim all scores that have arrived, oldest first; waits up to `timeout` seconds for the first.

        For applications with many open requests. It also claims scores that a call of `scores` in another thread is
        waiting for.

        Raises:
            StreamError: when Kafka did not take an event, or scores can no longer be read.
        """
        self._listen()
        with self._arrived:
            self._arrived.wait_for(lambda: self._answers or self._failure is not None, timeout)
            arrivals = list(self._answers.values())
            self._answers.clear()
        if not arrivals:
            self._check()
        return arrivals

    def flush(self) -> None:
        """Wait until Kafka has acknowledged all events.

        Raises:
            KafkaClientError: when it did not take an event.
        """
        self._sender.flush()

    def close(self, *, flush: bool = True) -> None:
        """Flush, and stop receiving; without `flush`, events that Kafka has not taken yet are dropped.

        Raises:
            KafkaClientError: when Kafka did not take an event.
        """
        try:
            if flush:
                self.flush()
        finally:
            self._stop.set()
            if self._reader is not None:
                self._reader.join()

    def _time(self, ts: int | None) -> int:
        return round(self._clock() * 1000) if ts is None else ts

    def _check(self) -> None:
        self._sender.poll()
        if self._failure is not None:
            raise self._failure

    def _listen(self) -> None:
        """Start receiving, before the impression is written: its answer may come at once."""
        with self._arrived:
            if self._reader is None:
                tail = TopicReader(self._kafka, [self._topics.scores], on_missing="skip")
                self._reader = threading.Thread(target=self._receive, args=(tail,), name="scores", daemon=True)
                self._reader.start()

    def _receive(self, tail: TopicReader) -> None:
        try:
            while not self._stop.is_set():
                if messages := tail.read(_READ_S):
                    received = self._clock()
                    self._put([message.value() for message in messages], received)
        except Exception as error:  # raised by the next call of `scores` or `poll_scores`
            with self._arrived:
                self._failure = error
                self._arrived.notify_all()
        finally:
            tail.close()

    def _put(self, values: list[bytes | None], received: float) -> None:
        with self._arrived:
            for value in values:
                try:
                    score = decode_score(value or b"")
                except DECODE_ERRORS:
                    self.malformed += 1
                    continue
                self._answers.setdefault(score.request_id, Arrival(score, received))
            while len(self._answers) > self._keep:
                self._answers.popitem(last=False)
                self.dropped += 1
            self._arrived.notify_all()


def _checked(event: msgspec.Struct, decode: Callable[[bytes], Any]) -> bytes:
    """Return an event's JSON, after decoding it as a reader does: the constructor of a Struct validates nothing."""
    try:
        value = encode_json(event)
        decode(value)
    except (msgspec.ValidationError, TypeError, UnicodeError) as error:
        raise EventError(f"{type(event).__name__.lower()}: {error}") from None
    return value

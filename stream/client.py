"""What a front end needs: write behaviours, impressions and clicks, and receive the answers."""

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from stream.errors import EventError, KafkaClientError, NoAnswerError
from stream.kafka.clients import check_connection
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.kafka.topic_watch import TopicWatch
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

# Unlike a worker, a front end had better hear that Kafka is away than wait for ever.
_PRODUCER = {"message.timeout.ms": "120000", "linger.ms": "1"}
_READ_S = 0.1


class Arrival(NamedTuple):
    """An answer and when it arrived, in seconds of the client's clock."""

    score: Score
    received: float


class Client:
    """A front end's connection: writes are handed to Kafka in the background, answers collected by a thread of its own.

    Events are checked before they are written, since a reader would put a wrong one among the dead letters.
    Writes wait while the producer's buffer is full, and an event that Kafka did not take raises at the next
    call, at the latest in `flush` or `close`. Answers are received from the first `impression`, `scores` or
    `poll_scores` on; those of other front ends arrive as well, so unclaimed answers are kept in a bounded
    number, the oldest dropped first. After a crash a worker may answer a request again; the answers carry the
    same `request_id`.

    Threads may share a client.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        clock: seconds since the Unix epoch; the time of events that are given none, and of arrivals.
        keep: how many unclaimed answers are kept.
        wait_s: how long Kafka may take to answer at first, in seconds.

    Raises:
        SettingsError: when librdkafka does not take the properties.
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
        self._watch: TopicWatch | None = None
        self.dropped = 0
        """Answers that nobody claimed while `keep` newer ones arrived."""
        self.malformed = 0
        """Records of the scores topic that are no answers."""

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error without waiting for Kafka, which may be what is wrong."""
        self.close(flush=kind is None)

    def behavior(self, user: str, item: str, ts: int | None = None, category: str = "", action: str = "view") -> None:
        """Write that `user` did `action` with `item` at `ts` (ms; now when None).

        Raises:
            EventError: for a field that no reader would accept.
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
        """Ask for the probabilities of `candidates`; the best `slots` will be shown. Returns the request's id.

        Raises:
            EventError: for a field that no reader would accept.
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
        """Write that `user` clicked `item` as shown by `request_id`, and the behaviour that the click is.

        Raises:
            EventError: for a field that no reader would accept.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        ts = self._time(ts)
        click = _checked(Click(request_id, user, item, ts), decode_click)
        behavior = _checked(Behavior(user, item, ts, category, action), decode_behavior)
        self._sender.send(self._topics.clicks, click, key=user)
        self._sender.send(self._topics.behaviors, behavior, key=user)

    def scores(self, request_id: str, timeout: float = 5.0) -> Score:
        """Wait for the answer to a request, and claim it.

        Raises:
            NoAnswerError: when none arrives within `timeout` seconds.
            StreamError: when Kafka did not take an event, or answers can no longer be read.
        """
        self._listen()
        with self._arrived:
            self._arrived.wait_for(lambda: request_id in self._answers or self._failure is not None, timeout)
            if (arrival := self._answers.pop(request_id, None)) is not None:
                return arrival.score
        self._check()
        raise NoAnswerError(
            f"no answer to request {request_id!r} within {timeout:g} s: is a worker running (`samstream worker`),"
            f" and did it accept the impression? What it refused is in {self._topics.dead_letters}, with the reason."
        )

    def poll_scores(self, timeout: float = 0.0) -> list[Arrival]:
        """Claim all answers that have arrived, oldest first; waits up to `timeout` seconds for the first.

        For drivers that have many requests under way. It takes what `scores` in another thread would wait
        for.

        Raises:
            StreamError: when Kafka did not take an event, or answers can no longer be read.
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
        """Wait until Kafka has all events that were written.

        Raises:
            KafkaClientError: when it did not take one.
        """
        self._sender.flush()

    def close(self, *, flush: bool = True) -> None:
        """Flush, and stop receiving; without `flush`, what Kafka has not taken yet is dropped.

        Raises:
            KafkaClientError: when Kafka did not take an event.
        """
        try:
            if flush:
                self.flush()
        finally:
            self._stop.set()
            if self._watch is not None:
                self._watch.close()
            if self._reader is not None:
                self._reader.join()

    def _time(self, ts: int | None) -> int:
        return round(self._clock() * 1000) if ts is None else ts

    def _check(self) -> None:
        self._sender.poll()
        if self._failure is not None:
            raise self._failure

    def _listen(self) -> None:
        """Receive from here on; an impression may be answered as soon as it is written, so this comes before it."""
        with self._arrived:
            if self._reader is None:
                tail = TopicReader(self._kafka, [self._topics.scores])
                self._watch = TopicWatch(self._kafka, [self._topics.scores], self._heard)
                self._reader = threading.Thread(target=self._receive, args=(tail,), name="scores", daemon=True)
                self._reader.start()

    def _heard(self, kind: str, trouble: str) -> None:
        """Take note that the topic of the answers is gone: one made anew would be read from a wrong offset on."""
        if kind == "topics" and trouble:
            self._fail(KafkaClientError(trouble))

    def _fail(self, error: Exception) -> None:
        """Have the next call of `scores` or `poll_scores` raise an error."""
        with self._arrived:
            self._failure = error
            self._arrived.notify_all()

    def _receive(self, tail: TopicReader) -> None:
        try:
            while not self._stop.is_set():
                if messages := tail.read(_READ_S):
                    received = self._clock()
                    self._put([message.value() for message in messages], received)
        except Exception as error:
            self._fail(error)
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
    """Return an event's JSON after reading it as its readers will: constructing a Struct validates nothing."""
    try:
        value = encode_json(event)
        decode(value)
    except (msgspec.ValidationError, TypeError, UnicodeError) as error:
        raise EventError(f"{type(event).__name__.lower()}: {error}") from None
    return value

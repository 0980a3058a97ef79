"""What a front end needs: write behaviours, impressions and clicks, and receive the answers."""

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from stream.errors import EventError, KafkaClientError, NoAnswerError
from stream.kafka.clients import check_connection
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.kafka.topic_watch import TopicWatch
from stream.runtime.closing import Resources
from stream.schema.events import (
    DECODE_ERRORS,
    Behavior,
    Candidate,
    Click,
    Impression,
    RequestKey,
    Score,
    Withdrawal,
    decode_behavior,
    decode_click,
    decode_impression,
    decode_score,
    decode_withdrawal,
    encode_json,
)
from stream.schema.features import encode_features
from stream.schema.topics import Topics
from stream.schema.units import unit_hint

# Unlike a worker, a front end had better hear that Kafka is away than wait for ever.
_PRODUCER = {"message.timeout.ms": "120000", "linger.ms": "1"}
_READ_S = 0.1
_OPEN = 10
"""So many times `keep` requests may wait for an answer at a time."""


class Arrival(NamedTuple):
    """An answer and when it arrived, in seconds of the client's clock."""

    score: Score
    received: float


class Client:
    """A front end's connection: writes are handed to Kafka in the background, answers collected by a thread of its own.

    Events are checked before they are written, since a reader would put a wrong one among the dead letters.
    Writes wait while the producer's buffer is full, and an event that Kafka did not take raises at the next
    call, at the latest in `flush` or `close`. `impression` returns the request's `RequestKey`, its user and id: by
    that answers are claimed and clicks written, so nobody is given another user's answer, even where users have the
    same ids. Only answers to this client's own requests are kept, each once, though a worker may repeat one after a
    crash; they and the requests that wait are bounded in number, the oldest dropped first.

    Threads may share a client.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        clock: seconds since the Unix epoch; the time of events that are given none, and of arrivals.
        keep: how many unclaimed answers are kept; ten times as many requests may wait for theirs.
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
        self._waiting: OrderedDict[RequestKey, int] = OrderedDict()
        """Request → a hash of its items: what was asked before under the same key may be answered again."""
        self._answers: OrderedDict[RequestKey, Arrival] = OrderedDict()
        self._reader: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._watch: TopicWatch | None = None
        self.dropped = 0
        """Answers that nobody claimed while `keep` newer ones arrived, and requests that waited for too long."""
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

    def behavior(
        self,
        user: str,
        item: str,
        ts: int | None = None,
        category: str = "",
        action: str = "view",
        features: Mapping[str, Any] | None = None,
    ) -> None:
        """Write that `user` did `action` with `item` at `ts` (ms; now when None).

        Args:
            user: who.
            item: with what.
            ts: when, ms; now when None.
            category: of the item.
            action: what was done.
            features: of the item and of the behaviour, by name, as `[features]` of the settings defines them.

        Raises:
            EventError: for a field that no reader would accept.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        event = Behavior(user, item, self._time(ts), category, action, encode_features(features))
        self._sender.send(self._topics.behaviors, _checked(event, decode_behavior), key=user)

    def impression(
        self,
        user: str,
        candidates: Sequence[Candidate],
        slots: int = 10,
        request_id: str | None = None,
        ts: int | None = None,
        features: Mapping[str, Any] | None = None,
        *,
        explain: bool = False,
    ) -> RequestKey:
        """Ask for the probabilities of `candidates`; the best `slots` will be shown. Returns the request's key.

        Args:
            user: who asks.
            candidates: what to rank; `Candidate.of` gives one its features.
            slots: how many will be shown.
            request_id: one that this user has for no other request; made here when None.
            ts: when, ms; now when None.
            features: of the request and of its user, by name, as `[features]` of the settings defines them.
            explain: whether the answer shall say which behaviours weighed most (`Score.why`).

        Raises:
            EventError: for a field that no reader would accept.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        self._listen()
        request_id = uuid.uuid4().hex if request_id is None else request_id
        event = Impression(
            request_id, user, self._time(ts), list(candidates), slots, encode_features(features), explain
        )
        value = _checked(event, decode_impression)
        with self._arrived:
            self._answers.pop(event.request, None)
            self._waiting[event.request] = _hash(candidate.item for candidate in candidates)
            while len(self._waiting) > _OPEN * self._keep:
                self._waiting.popitem(last=False)
                self.dropped += 1
        self._sender.send(self._topics.impressions, value, key=user)
        return event.request

    def click(
        self,
        request: RequestKey,
        item: str,
        ts: int | None = None,
        category: str = "",
        action: str = "click",
        features: Mapping[str, Any] | None = None,
    ) -> None:
        """Write that the request's user clicked `item` as shown by it, and the behaviour that the click is.

        Args:
            request: what `impression` returned, here or in another process: `RequestKey(user, request_id)`.
            item: which of its items.
            ts: when, ms; now when None.
            category: of the item.
            action: of the behaviour.
            features: of the item and of the behaviour, as in `behavior`.

        Raises:
            EventError: for a field that no reader would accept.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        user, request_id = _checked_key(request)
        ts = self._time(ts)
        click = _checked(Click(request_id, user, item, ts), decode_click)
        event = Behavior(user, item, ts, category, action, encode_features(features))
        behavior = _checked(event, decode_behavior)
        self._sender.send(self._topics.clicks, click, key=user)
        self._sender.send(self._topics.behaviors, behavior, key=user)

    def withdraw(self, request: RequestKey, ts: int | None = None) -> None:
        """Write that the answer to a request is not shown, as when it came too late: nothing is learned from it.

        Args:
            request: what `impression` returned, here or in another process.
            ts: of the impression, ms; now when None.

        Raises:
            EventError: for a field that no reader would accept.
            KafkaClientError: when Kafka did not take an earlier event.
        """
        user, request_id = _checked_key(request)
        event = Withdrawal(request_id, user, self._time(ts))
        self._sender.send(self._topics.impressions, _checked(event, decode_withdrawal), key=user)

    def scores(self, request: RequestKey, timeout: float = 5.0) -> Score:
        """Wait for the answer to a request of this client, and claim it.

        Raises:
            EventError: when `request` is no `RequestKey`.
            NoAnswerError: when none arrives within `timeout` seconds; at once when this client has no such request
                under way, since it was never asked here, was claimed, or has been dropped.
            StreamError: when Kafka did not take an event, or answers can no longer be read.
        """
        user, request_id = _checked_key(request)
        with self._arrived:
            self._arrived.wait_for(lambda: request not in self._waiting or self._failure is not None, timeout)
            if (arrival := self._answers.pop(request, None)) is not None:
                return arrival.score
            waits = request in self._waiting
        self._check()
        if not waits:
            raise NoAnswerError(
                f"request {request_id!r} of user {user!r} is not under way: it was not asked by this client, or its"
                " answer was claimed before or dropped"
            )
        raise NoAnswerError(
            f"no answer to request {request_id!r} of user {user!r} within {timeout:g} s: is a worker running"
            " (`samstream worker`), and did it accept the impression? What it refused is in"
            f" {self._topics.dead_letters}, with the reason."
        )

    def poll_scores(self, timeout: float = 0.0) -> list[Arrival]:
        """Claim all answers that have arrived for this client, oldest first; waits up to `timeout` s for the first.

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
        with Resources() as resources:
            if self._reader is not None:
                resources.defer(self._reader.join)
            if self._watch is not None:
                resources.add(self._watch)
            resources.defer(self._stop.set)
            if flush:
                self.flush()

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
                tail = TopicReader(self._kafka, [self._topics.scores], on_missing="skip")
                self._watch = TopicWatch(self._kafka, [self._topics.scores], self._heard)
                self._reader = threading.Thread(target=self._receive, args=(tail,), name="scores", daemon=True)
                self._reader.start()

    def _heard(self, kind: str, trouble: str) -> None:
        """Take note that the topic of the answers is gone: a recreated one would be read from a wrong offset on."""
        if kind == "topics" and trouble:
            self._fail(KafkaClientError(trouble))

    def _fail(self, error: Exception) -> None:
        """Have the next call of `scores` or `poll_scores` raise an error."""
        with self._arrived:
            self._failure = error
            self._arrived.notify_all()

    def _receive(self, tail: TopicReader) -> None:
        try:
            with Resources() as resources:
                resources.add(tail)
                while not self._stop.is_set():
                    if messages := tail.read(_READ_S):
                        received = self._clock()
                        self._put([message.value() for message in messages], received)
        except Exception as error:
            self._fail(error)

    def _put(self, values: list[bytes | None], received: float) -> None:
        with self._arrived:
            for value in values:
                try:
                    score = decode_score(value or b"")
                except DECODE_ERRORS:
                    self.malformed += 1
                    continue
                # Answers to other front ends, and repeated ones, find nothing that waits.
                if self._waiting.get(score.request) == _hash(score.items):
                    del self._waiting[score.request]
                    self._answers[score.request] = Arrival(score, received)
            while len(self._answers) > self._keep:
                self._answers.popitem(last=False)
                self.dropped += 1
            self._arrived.notify_all()


def _hash(items: Iterable[str]) -> int:
    return hash(tuple(items))


def _checked_key(request: RequestKey) -> RequestKey:
    if not isinstance(request, RequestKey):
        raise EventError(
            f"{request!r} is no request: give what `impression` returned, or RequestKey(user, request_id), since a"
            " request_id is known only together with its user"
        )
    return request


def _checked(event: Behavior | Impression | Withdrawal | Click, decode: Callable[[bytes], Any]) -> bytes:
    """Return an event's JSON after reading it as its readers will: constructing a Struct validates nothing."""
    name = type(event).__name__.lower()
    try:
        value = encode_json(event)
        read = decode(value)
    except (msgspec.ValidationError, TypeError, UnicodeError) as error:
        hint = unit_hint(event.ts) if "`$.ts`" in str(error) and isinstance(event.ts, int | float) else ""
        raise EventError(f"{name}: {error}{hint}") from None
    if not isinstance(event, Behavior) and (hint := unit_hint(read.ts)):  # behaviours may be of any time
        raise EventError(f"{name}: `ts` {read.ts}{hint}")
    return value

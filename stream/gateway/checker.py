"""Turns what callers send into records, checked by the code that workers read them with."""

import re
import uuid
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Raw

from stream.gateway.bodies import (
    BehaviorRequest,
    ClickRequest,
    Features,
    FieldError,
    RankRequest,
    decode_behavior_request,
)
from stream.gateway.problems import ProblemError, field_error, unusable
from stream.schema.events import (
    DECODE_ERRORS,
    Behavior,
    Click,
    Impression,
    Withdrawal,
    encode_json,
)
from stream.schema.partitioner import partition_of
from stream.schema.record import Record
from stream.schema.topics import RECORD_BYTES, Topics
from stream.settings import Settings
from stream.task.decode import Event, RecordDecoder

_USERS = 100_000
_MOST_ERRORS = 100
_TOO_LARGE = re.compile(r"^\d+ bytes; at most")

E = TypeVar("E", Behavior, Click, Impression)


class NewRecord(NamedTuple):
    """A record to be written."""

    topic: str
    user: str
    value: bytes


class EventChecker:
    """Makes records of bodies; what a worker would put among the dead letters raises here.

    A worker compares `ts` with the record's timestamp, which the broker makes, so the clocks must agree within
    `worker.max_future_s`.

    Args:
        topics: the topic names.
        settings: the configuration; features and limits are those of the workers.
        partitions: how many partitions the topics have.
        now_ms: wall clock, ms since the epoch.
    """

    def __init__(self, topics: Topics, settings: Settings, *, partitions: int, now_ms: Callable[[], int]) -> None:
        self._topics = topics
        self._now_ms = now_ms
        self._max_lines = settings.gateway.max_lines
        self._decoder = RecordDecoder(topics, settings.worker, settings.feature_schema(), partitions=partitions)
        self._partition_of = lru_cache(maxsize=_USERS)(partial(partition_of, partitions=partitions))

    def partition(self, user: str) -> int:
        """Return the partition number of a user."""
        return self._partition_of(user.encode())

    def impression(self, asked: RankRequest) -> tuple[Impression, NewRecord]:
        """Return the impression that a request is, and its record.

        Raises:
            ProblemError: 422 or 413.
        """
        event = msgspec.structs.replace(asked, request_id=asked.request_id or uuid.uuid4().hex, ts=self._ts(asked.ts))
        return self._checked(Impression, NewRecord(self._topics.impressions, asked.user, _encoded(event)))

    def withdrawal(self, impression: Impression) -> NewRecord:
        """Return the record that takes back what a request was answered."""
        event = Withdrawal(impression.request_id, impression.user, impression.ts)
        return NewRecord(self._topics.impressions, impression.user, encode_json(event))

    def click(self, asked: ClickRequest) -> tuple[Click, list[NewRecord]]:
        """Return a click, with its record and that of the behaviour that it is.

        Raises:
            ProblemError: 422 or 413.
        """
        ts = self._ts(asked.ts)
        value = encode_json(Click(asked.request_id, asked.user, asked.item, ts))
        click, label = self._checked(Click, NewRecord(self._topics.clicks, asked.user, value))
        event = Behavior(
            asked.user, asked.item, ts, asked.category or "", asked.action or "click", _raw(asked.features)
        )
        _, behavior = self._checked(Behavior, NewRecord(self._topics.behaviors, asked.user, _encoded(event)))
        return click, [label, behavior]

    def behavior(self, body: bytes) -> NewRecord:
        """Return the record of one behaviour in JSON.

        Raises:
            ProblemError: 400, 422 or 413.
        """
        try:
            asked = decode_behavior_request(body)
        except msgspec.ValidationError as error:
            raise unusable(error) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ProblemError(400, f"{error}: send one JSON object, or one a line as application/x-ndjson") from None
        return self._behavior(asked)

    def behaviors(self, body: bytes) -> list[NewRecord]:
        """Return the records of behaviours in NDJSON, one a line; empty lines count as none.

        All are checked before the first is written, so that a caller can send the whole body again.

        Raises:
            ProblemError: 422, with each line that cannot be used (the first 100), or 413.
        """
        lines = [(number, line) for number, line in enumerate(body.splitlines(), 1) if line.strip()]
        if not lines:
            raise ProblemError(422, "no behaviours: send one JSON object a line")
        if len(lines) > self._max_lines:
            raise ProblemError(413, f"{len(lines)} lines; at most {self._max_lines} (gateway.max_lines)")
        records: list[NewRecord] = []
        errors: list[FieldError] = []
        refused = 0
        for number, line in lines:
            try:
                records.append(self._behavior(decode_behavior_request(line)))
            except (*DECODE_ERRORS, ProblemError) as error:
                refused += 1
                if len(errors) < _MOST_ERRORS:
                    errors.append(field_error(error, line=number))
        if refused:
            raise ProblemError(422, f"{refused} of {len(lines)} lines cannot be used; nothing was written", errors)
        return records

    def _behavior(self, asked: BehaviorRequest) -> NewRecord:
        value = _encoded(msgspec.structs.replace(asked, ts=self._ts(asked.ts)))
        return self._checked(Behavior, NewRecord(self._topics.behaviors, asked.user, value))[1]

    def _checked(self, kind: type[E], record: NewRecord) -> tuple[E, NewRecord]:
        """Return an event as a worker would read it."""
        if len(record.value) > RECORD_BYTES:
            raise ProblemError(413, f"a record of {len(record.value)} bytes; at most {RECORD_BYTES}")
        key = record.user.encode()
        read = Record(record.topic, self._partition_of(key), -1, self._now_ms(), key, record.value)
        try:
            event: Event = self._decoder.decode(read)
        except DECODE_ERRORS as error:
            if _TOO_LARGE.match(str(error)):
                raise ProblemError(413, str(error)) from None
            raise unusable(error) from None
        assert isinstance(event, kind)
        return event, record

    def _ts(self, ts: int | None) -> int:
        return self._now_ms() if ts is None else ts


def _encoded(event: RankRequest | BehaviorRequest | Behavior) -> bytes:
    try:
        return encode_json(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise unusable(ValueError(f"`features`: {error}")) from None


def _raw(features: Features | None) -> Raw | msgspec.UnsetType:
    return UNSET if features is None else Raw(msgspec.json.encode(features))

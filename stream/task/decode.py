"""Decodes records of the input topics into events, or says why a record cannot be used."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from stream.schema.erasures import EraseMarker, decode_marker
from stream.schema.events import (
    DECODE_ERRORS,
    Behavior,
    Candidate,
    Click,
    Impression,
    Withdrawal,
    decode_behavior,
    decode_click,
    decode_request,
)
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.schema.formats import JSON_ONLY, Formats, schema_id
from stream.schema.json_path import path_of
from stream.schema.partitioner import partition_of
from stream.schema.record import Record, RecordBatch
from stream.schema.topics import RECORD_BYTES, Topics
from stream.schema.units import DAY_MS, EARLIEST, LATEST, unit_hint, unit_of
from stream.settings import WorkerSettings
from stream.task.behavior_columns import BehaviorColumns, ColumnDecoder

_USERS = 100_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_IMPRESSION_BYTES = RECORD_BYTES // 2

Event = Behavior | Impression | Withdrawal | Click | EraseMarker
"""What a record of the input topics says; a marker stands among behaviours."""


class _Timed(msgspec.Struct):
    ts: float


class UnitCensus:
    """How many records of a topic there were, and how many of them have a `ts` that looks like another unit."""

    def __init__(self) -> None:
        self.records: dict[str, int] = defaultdict(int)  # faster than a Counter
        """Topic → records with a `ts`."""
        self.others: Counter[tuple[str, str]] = Counter()
        """(topic, unit) → those that look like this unit, which is not milliseconds."""

    def note(self, topic: str, ts: float) -> None:
        """Take the `ts` of a record."""
        self.records[topic] += 1
        if not EARLIEST <= ts < LATEST and (unit := unit_of(ts)):
            self.others[topic, unit] += 1

    def note_all(self, topic: str, times: npt.NDArray[np.int64]) -> None:
        """Take the `ts` of several records."""
        self.records[topic] += len(times)
        for ts in times[(times < EARLIEST) | (times >= LATEST)].tolist():
            if unit := unit_of(ts):
                self.others[topic, unit] += 1


class RecordDecoder:
    """Decodes records; refuses those in the wrong partition, with an implausible `ts`, or with too many candidates.

    Args:
        topics: the topic names.
        settings: limits.
        features: packs the features of callers.
        partitions: how many partitions the topics have.
        formats: make JSON of the values of topics in other formats.
        columns_from: the fewest behaviours for which columns pay: of a few, each is decoded alone.
    """

    def __init__(
        self,
        topics: Topics,
        settings: WorkerSettings,
        features: FeatureSchema = NO_FEATURES,
        *,
        partitions: int,
        formats: Formats = JSON_ONLY,
        columns_from: int = 16,
    ) -> None:
        self._columns_from = columns_from
        self._features = features
        self._reads_features = features.reads
        self._behaviors = topics.behaviors
        self._max_candidates = settings.max_candidates
        self._max_future_ms = settings.max_future_s * 1000
        self._max_past_ms = settings.max_past_s * 1000
        self.units = UnitCensus()
        """What unit the times of the records so far seem to have."""
        self._partitions = partitions
        self._partition_of = lru_cache(maxsize=_USERS)(partial(partition_of, partitions=partitions))
        self._decoders: dict[str, Callable[[bytes], Behavior | Impression | Withdrawal | Click]] = {
            topics.impressions: decode_request,
            topics.clicks: decode_click,
            topics.behaviors: decode_behavior,
        }
        self._formats = formats
        self._other_formats = frozenset(topic for topic in self._decoders if formats.reads(topic))
        self._by_columns = not features.reads and not formats.reads(topics.behaviors)
        self._columns = ColumnDecoder(
            self._partition_of,
            max_future_ms=self._max_future_ms,
            note=lambda times: self.units.note_all(topics.behaviors, times),
        )

    def decode_batch(self, batch: RecordBatch) -> Iterator[BehaviorColumns | tuple[int, Event | Exception]]:
        """Yield what the records of a batch say, in their order.

        Behaviours come as columns, as many together as lie side by side; anything else, and each behaviour where
        there are few, where features are read, or that is not JSON, with its place in the batch, as `decode` returns or
        raises it.
        """
        by_columns = self._by_columns and batch.topic == self._behaviors and len(batch) >= self._columns_from
        for piece in self._columns.decode(batch) if by_columns else range(len(batch)):
            if isinstance(piece, int):
                try:
                    yield piece, self.decode(batch.record(piece))
                except DECODE_ERRORS as error:
                    yield piece, error
            else:
                yield piece

    def decode(self, record: Record) -> Event:
        """Return what a record says, its features packed; `formats` must be ready for it.

        Raises:
            ValueError, or another of `events.DECODE_ERRORS`: saying why it cannot be used.
        """
        topic, value = record.topic, record.value or b""
        if self._other_formats and topic in self._other_formats:
            value = self._formats.to_json(topic, value)
            record = record._replace(value=value)
        try:
            event = self._decoders[topic](value)
        except msgspec.ValidationError as error:
            if topic == self._behaviors and (marker := decode_marker(value)) is not None:
                self._check_place(record, marker.user)
                return marker
            raise ValueError(f"{error}{self._unit_words(record, error)}") from None
        except msgspec.DecodeError as error:
            raise ValueError(f"{error}{_place_words(value)}") from None
        ts, timestamp = event.ts, record.timestamp
        self.units.note(topic, ts)
        self._check_place(record, event.user)
        # Against the record's own time, not the wall clock: folding the log again must give the same.
        if ts > timestamp + self._max_future_ms:
            raise ValueError(
                f"`ts` {ts} is {ts - timestamp} ms ahead of the record's timestamp"
                f" {timestamp}{unit_hint(ts) or unit_hint(timestamp)}"
            )
        # Old behaviours are as good as new ones. But among impressions and clicks a slow or still clock closes no
        # windows: there would be clicks, and never what was not clicked.
        if timestamp - ts > self._max_past_ms and not isinstance(event, Behavior):
            raise ValueError(
                f"`ts` {ts} is {(timestamp - ts) // DAY_MS} days behind the record's timestamp"
                f" {timestamp}, more than worker.max_past_s allows{unit_hint(ts)}"
            )
        if isinstance(event, Impression):
            self._check_cost(record, event)
        if self._reads_features:
            _pack_features(event, self._features)
        return event

    def _check_place(self, record: Record, user: str) -> None:
        if record.key != user.encode():
            raise ValueError(f"the record's key must be its user {user!r}, it is {record.key!r}")
        if self._partition_of(record.key) != record.partition:
            raise ValueError(
                f"another partitioner put it here than Kafka's murmur2 over {self._partitions} partitions, unless the"
                " number of partitions was changed; set partitioner=murmur2_random"
            )

    def _unit_words(self, record: Record, error: msgspec.ValidationError) -> str:
        """Return a hint at the unit of a `ts` that is out of range or not an integer; empty without one."""
        if "`$.ts`" not in str(error):
            return ""
        try:
            ts = _read_ts(record.value or b"").ts
        except DECODE_ERRORS:
            return ""
        self.units.note(record.topic, ts)
        return unit_hint(ts)

    def _check_cost(self, record: Record, impression: Impression) -> None:
        if record.value is not None and len(record.value) > _IMPRESSION_BYTES:
            raise ValueError(f"{len(record.value)} bytes; at most {_IMPRESSION_BYTES}, so that the answer can be sent")
        candidates = impression.candidates
        if len(candidates) > self._max_candidates:
            raise ValueError(f"{len(candidates)} candidates; at most {self._max_candidates} are scored")
        if len({candidate.item for candidate in candidates}) < len(candidates):
            raise ValueError("a candidate is listed twice")


def _place_words(value: bytes) -> str:
    """Return where NaN, Infinity or half a surrogate pair stands, which many languages write and JSON does not have.

    For what is no JSON for another reason, what it may be; empty when that is not clear.
    """
    if (number := schema_id(value)) is not None:
        return f": it looks like a value of schema {number}; [registry] of the settings says which topics have such"
    try:
        path = path_of(json.loads(value, parse_constant=_Constant), _is_none)
    except (ValueError, RecursionError):
        return ""
    return f" - at `{path}`" if path else ""


class _Constant(str):
    """NaN or Infinity in a text that is no JSON."""


def _is_none(value: Any) -> bool:
    """Say whether a value is one that JSON does not have."""
    return isinstance(value, _Constant) or (isinstance(value, str) and bool(_SURROGATE.search(value)))


def _pack_features(event: Event, schema: FeatureSchema) -> None:
    """Put records in the place of the JSON of an event's features."""
    if isinstance(event, Behavior):
        _put(event, schema.pack_behavior(event.features))
    elif isinstance(event, Impression):
        _put(event, schema.pack_context(event.features))
        for place, candidate in enumerate(event.candidates):
            _put(candidate, schema.pack_item(candidate.features, place))


def _put(event: Behavior | Impression | Candidate, packed: bytes) -> None:
    msgspec.structs.force_setattr(event, "features", msgspec.Raw(packed))


_read_ts = msgspec.json.Decoder(_Timed).decode

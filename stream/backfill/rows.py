"""Rows as the records of the topics: checked as a worker will check them, so that none becomes a dead letter."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa

from stream.backfill.columns import Source
from stream.errors import EventError
from stream.schema.events import DECODE_ERRORS, Behavior, Candidate, Click, Impression, encode_json
from stream.schema.features import Given, encode_features
from stream.schema.partitioner import partition_of
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.decode import RecordDecoder

Values = Mapping[str, Any]
"""Field → value of one row."""
_MAX_SLOTS = 65_535
_USERS = 100_000


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record that is to be written, keyed by its user."""

    topic: str
    user: str
    value: bytes


class RowReader:
    """Makes records of rows.

    Args:
        settings: of workers: limits of time and size, and the features.
        topics: the names.
        partitions: of the topics.
        now_ms: the time that the records will have in Kafka, about: milliseconds since the epoch.
    """

    def __init__(self, settings: Settings, topics: Topics, *, partitions: int, now_ms: int) -> None:
        self._topics = topics
        self._partition_of = lru_cache(maxsize=_USERS)(partial(partition_of, partitions=partitions))
        self._now_ms = now_ms
        self._decoder = RecordDecoder(topics, settings.worker, settings.feature_schema(), partitions=partitions)
        self._features = {
            source: [each.name for each in settings.feature_schema().features if each.of in of]
            for source, of in (
                ("behaviors", ("item", "behavior")),
                ("impressions", ("context", "user")),
                ("candidates", ("item",)),
            )
        }

    def records(self, source: Source, values: Values) -> list[Outgoing]:
        """Return the records of one row.

        A behaviour is one; a labelled impression is itself and a click for each of its labels that is 1, at its time.

        Raises:
            ValueError, or another of `DECODE_ERRORS`: saying why a worker would not take it.
        """
        if values["user"] is None or values["ts"] is None:
            raise ValueError(f"`{'user' if values['user'] is None else 'ts'}` is missing")
        found = self._behavior(values) if source == "behaviors" else self._impression(values)
        records = [Outgoing(topic, event.user, encode_json(event)) for topic, event in found]
        for record in records:
            key = record.user.encode()
            where = self._partition_of(key)
            self._decoder.decode(Record(record.topic, where, 0, self._now_ms, key, record.value))
        return records

    def _behavior(self, values: Values) -> list[tuple[str, Behavior | Impression | Click]]:
        category, action = values.get("category") or "", values.get("action")
        features = self._given(values, self._features["behaviors"])
        event = Behavior(
            values["user"], values["item"], values["ts"], category, "view" if action is None else action, features
        )
        return [(self._topics.behaviors, event)]

    def _impression(self, values: Values) -> list[tuple[str, Behavior | Impression | Click]]:
        items, labels = values["items"], values["labels"]
        if items is None or labels is None or len(items) != len(labels):
            counts = ["none" if each is None else len(each) for each in (items, labels)]
            raise ValueError(f"`items` has {counts[0]} entries and `labels` {counts[1]}: they must have as many")
        if not all(label in (0, 1) for label in labels):
            raise ValueError("`labels` must be 0 or 1 each")
        user, ts, request = values["user"], values["ts"], values["request_id"]
        categories = self._per_candidate(values, "categories", len(items))
        own = {name: self._per_candidate(values, name, len(items)) for name in self._features["candidates"]}
        candidates = [
            Candidate(item, categories[place] or "", self._given({n: of[place] for n, of in own.items()}, list(own)))
            for place, item in enumerate(items)
        ]
        # All that was shown becomes samples: what was not clicked as well.
        slots = min(max(len(items), 1), _MAX_SLOTS)
        features = self._given(values, self._features["impressions"])
        impression = Impression(request, user, ts, candidates, slots, features)
        clicks = [Click(request, user, item, ts) for item, label in zip(items, labels, strict=True) if label == 1]
        return [(self._topics.impressions, impression), *((self._topics.clicks, click) for click in clicks)]

    @staticmethod
    def _per_candidate(values: Values, name: str, count: int) -> Sequence[Any]:
        found = values.get(name)
        if found is None:
            return [None] * count
        if len(found) != count:
            raise ValueError(f"`{name}` has {len(found)} entries and `items` {count}: they must have as many")
        return list(found)

    @staticmethod
    def _given(values: Values, names: Sequence[str]) -> Given:
        """Return features as events have them; what is null, or NaN as a number, is missing."""
        there = {name: value for name in names if (value := values.get(name)) is not None and not _missing(value)}
        return encode_features(there or None)


def _missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


ROW_ERRORS = (*DECODE_ERRORS, EventError, TypeError, UnicodeError)
"""What `RowReader.records` can raise for a row."""


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as values by column."""
    columns = {name: _values(table.column(name)) for name in table.column_names}
    for place in range(table.num_rows):
        yield {name: values[place] for name, values in columns.items()}


def _values(column: pa.ChunkedArray) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # a file can claim that its bytes are text; half characters are no JSON, and refused
        return [
            None if value is None else value.decode(errors="surrogateescape")
            for value in column.cast(pa.binary(), safe=False).to_pylist()
        ]

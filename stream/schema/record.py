"""A consumed Kafka record, as the parts that know no Kafka client see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

Headers = tuple[tuple[str, bytes | None], ...]
"""A record's Kafka headers in their order; a name may come several times."""


class HasHeaders(Protocol):
    """A client's message, as far as its headers are concerned."""

    def headers(self) -> Any:
        """Return pairs of names and values; None where there are none."""


class Record(NamedTuple):
    """Topic, partition, offset, the record's own timestamp (ms), key and value; headers only where they are needed.

    Headers are kept only for records that are refused, or may be, since dead letters keep them.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def with_headers(self, message: HasHeaders) -> Self:
        """Return this record with the headers of the message that it came in."""
        headers = tuple(
            (name, value.encode() if isinstance(value, str) else value) for name, value in message.headers() or ()
        )
        return self._replace(headers=headers) if headers else self


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one partition of a topic in the order of their offsets, as columns; as in `Record`.

    Attributes:
        topic: the topic.
        partition: the partition number.
        offsets: one a record, as the other columns.
        timestamps: of the records, ms.
        keys: their keys.
        values: their values.
        messages: what they came in; empty where nobody will ask for headers.
    """

    topic: str
    partition: int
    offsets: Sequence[int]
    timestamps: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    messages: Sequence[HasHeaders] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    def record(self, place: int) -> Record:
        """Return the record at a place."""
        return Record(
            self.topic,
            self.partition,
            self.offsets[place],
            self.timestamps[place],
            self.keys[place],
            self.values[place],
        )

    def message(self, place: int) -> HasHeaders | None:
        """Return what the record at a place came in, where that was kept."""
        return self.messages[place] if self.messages else None


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that cannot be used, and why: it goes to the dead letters."""

    record: Record
    reason: str

"""A consumed Kafka record, as the parts that know no Kafka client see it."""

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
class RefusedRecord:
    """A record that cannot be used, and why: it goes to the dead letters."""

    record: Record
    reason: str

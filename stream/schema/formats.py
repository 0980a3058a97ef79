"""How the values of a topic are written: as JSON, or as schemas say that a registry keeps."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

MAGIC: Final = b"\0"
"""The first byte of a value in Confluent's wire format; no JSON begins with it."""
HEADER_BYTES: Final = 5
"""The magic byte, and the id of the schema, a big-endian unsigned integer of 4 bytes."""


class Formats(Protocol):
    """Makes JSON of values in other formats, so that the same decoders check all of them.

    Before `to_json` is called, `ready` must have said that it can be: a schema has to be asked for, which takes time,
    and may take as long as a registry is away.
    """

    def reads(self, topic: str, /) -> bool:
        """Say whether values of a topic may be in another format than JSON."""

    def ready(self, topic: str, value: bytes | None, /) -> bool:
        """Say whether a value can be read or refused by now; if not, its schema is being asked for. Never waits."""

    def to_json(self, topic: str, value: bytes, /) -> bytes:
        """Return a value as JSON, as it is where it is JSON already.

        Raises:
            ValueError: says why it cannot be read.
        """

    def notes(self) -> Sequence[str]:
        """Return what keeps schemas from being known, in words; empty when nothing does."""


class JsonOnly:
    """All topics are JSON."""

    def reads(self, _topic: str, /) -> bool:
        """Return False."""
        return False

    def ready(self, _topic: str, _value: bytes | None, /) -> bool:
        """Return True."""
        return True

    def to_json(self, _topic: str, value: bytes, /) -> bytes:
        """Return the value."""
        return value

    def notes(self) -> Sequence[str]:
        """Return nothing."""
        return ()


JSON_ONLY: Final[Formats] = JsonOnly()


def await_ready(formats: Formats, values: Iterable[tuple[str, bytes | None]], pause: Callable[[], None]) -> None:
    """Wait until values can be read or refused.

    Args:
        formats: of the topics.
        values: topic and value of records.
        pause: waits a moment; what it raises ends the waiting.
    """
    for topic, value in values:
        while not formats.ready(topic, value):
            pause()


def schema_id(value: bytes | None) -> int | None:
    """Return the id of the schema of a value in Confluent's wire format; None for one in another format.

    >>> schema_id(bytes.fromhex("00000000070a")), schema_id(b'{"user": "ann"}')
    (7, None)
    """
    if value is None or len(value) < HEADER_BYTES or not value.startswith(MAGIC):
        return None
    return int.from_bytes(value[1:HEADER_BYTES])

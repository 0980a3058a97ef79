"""Dead letters: records that could not be used, kept byte for byte, with the reason and where they came from.

A dead letter has the key and the value of the refused record and these headers, all text:

| header | says |
|---|---|
| `reason` | why it could not be used |
| `topic`, `partition`, `offset` | where it was read |
| `timestamp` | its own Kafka timestamp, milliseconds since the Unix epoch |
| `refused-by` | the program that refused it: `worker`, `trainer` |
| `value-bytes`, `key-bytes` | only where it did not fit: the full length, of which the head is kept |

A value up to `RECORD_BYTES` is whole. A longer one (a topic can be set to take more than other topics and
producers do) is cut to its head; the whole of it stays readable at its origin for as long as that topic
retains it. A null value stays null.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message

from stream.kafka import Sender, to_record
from stream.record import Record
from stream.tail import Tail
from stream.topics import RECORD_BYTES, Topics

_KEY_BYTES = 16_384
_REASON_BYTES = 4_096

Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it was read.

    Attributes:
        offset: its own, in `dead-letters`.
        origin: the refused record: where it was read, its timestamp (ms), key and value.
        reason: why it was refused.
        refused_by: by which program.
        cut: whether only the head of key or value was kept.
    """

    offset: int
    origin: Record
    reason: str
    refused_by: str
    cut: bool


def dead_letter(sender: Sender, topics: Topics, record: Record, reason: str, *, by: str = "worker") -> None:
    """Send the dead letter of a record.

    Args:
        sender: where to; the letter is safe once its `flush` has returned.
        topics: the names.
        record: as it was consumed.
        reason: why it could not be used.
        by: the program that refused it.

    Raises:
        KafkaClientError: when it, or an earlier record, cannot be sent.
    """
    key, value, headers = letter(record, reason, by=by)
    sender.send(topics.dead_letters, value, key=key, headers=headers)


def letter(record: Record, reason: str, *, by: str) -> tuple[bytes | None, bytes | None, Headers]:
    """Return the (key, value, headers) of a record's dead letter."""
    headers: Headers = [
        ("reason", _text(reason)),
        ("topic", record.topic),
        ("partition", str(record.partition)),
        ("offset", str(record.offset)),
        ("timestamp", str(record.timestamp)),
        ("refused-by", by),
    ]
    key, value = record.key, record.value
    if value is not None and len(value) > RECORD_BYTES:
        headers.append(("value-bytes", str(len(value))))
        value = value[:RECORD_BYTES]
    if key is not None and len(key) > _KEY_BYTES:
        headers.append(("key-bytes", str(len(key))))
        key = key[:_KEY_BYTES]
    return key, value, headers


def _text(reason: str) -> bytes:
    """Return a reason that is UTF-8 and short, whatever the refused record made it quote."""
    return reason.encode(errors="backslashreplace")[:_REASON_BYTES].decode(errors="ignore").encode()


def read_letters(kafka: Mapping[str, str], topics: Topics) -> Iterator[Letter]:
    """Yield all dead letters that there are at the moment, oldest first; what is none of ours is passed over.

    Raises:
        KafkaClientError: when Kafka cannot be read.
    """
    tail = Tail(kafka, [topics.dead_letters], from_beginning=True)
    try:
        while not tail.at_end():
            for message in tail.read(1.0):
                if (known := _letter(message)) is not None:
                    yield known
    finally:
        tail.close()


def _letter(message: Message) -> Letter | None:
    record = to_record(message)
    raw: dict[str, Any] = dict(message.headers() or ())
    headers = {name: value.decode(errors="replace") for name, value in raw.items() if value is not None}
    try:
        origin = Record(
            headers["topic"],
            int(headers["partition"]),
            int(headers["offset"]),
            int(headers["timestamp"]),
            record.key,
            record.value,
        )
        cut = bool({"value-bytes", "key-bytes"} & headers.keys())
        return Letter(record.offset, origin, headers["reason"], headers["refused-by"], cut)
    except (KeyError, ValueError):
        return None

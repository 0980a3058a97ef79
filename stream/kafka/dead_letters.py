"""Dead letters: records that could not be used, kept byte for byte, with the reason and where they came from.

A dead letter has the key and the value of the refused record and these headers, all text:

| header | says |
|---|---|
| `reason` | why it could not be used |
| `topic`, `partition`, `offset` | where it was read |
| `timestamp` | its own Kafka timestamp, milliseconds since the Unix epoch |
| `refused-by` | the program that refused it: `worker`, `trainer` |
| `value-bytes`, `key-bytes` | only where it did not fit: the full length, of which the head is kept |
| `headers-left-out` | only where they did not fit: how many of its own headers are missing |

The record's own headers follow, in their order; one whose name is among these, or begins with `original-`, gets
`original-` before it.

A value up to `RECORD_BYTES` is whole, if the topic `dead-letters` takes it. A longer one (a topic can be set to take
more or less than others) is cut to its head; the whole of it stays readable at its origin for as long as that topic
retains it. A null value stays null.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import Message

from stream.kafka.clients import to_record
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.runtime.closing import Resources
from stream.schema.record import Headers, Record
from stream.schema.topics import RECORD_BYTES, Topics

_KEY_BYTES = 16_384
_REASON_BYTES = 4_096
_ENVELOPE_BYTES = 1_000
"""Room for the batch around a letter and all headers but the reason, topic names of 249 characters included."""

_HEADER_BYTES = 65_536
_HEADER_OVERHEAD = 10
"""Bytes that a header takes beside its name and value, at most."""
_OURS = frozenset(
    {
        "reason",
        "topic",
        "partition",
        "offset",
        "timestamp",
        "refused-by",
        "value-bytes",
        "key-bytes",
        "headers-left-out",
    }
)
_PREFIX = "original-"

LetterHeaders = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as it was read.

    Attributes:
        offset: its own, in `dead-letters`.
        origin: the refused record: where it was read, its timestamp (ms), key, value and headers.
        reason: why it was refused.
        refused_by: by which program.
        cut: whether only the head of key or value, or not all headers, were kept.
    """

    offset: int
    origin: Record
    reason: str
    refused_by: str
    cut: bool


def send_dead_letter(
    sender: ReliableProducer, topics: Topics, record: Record, reason: str, *, by: str = "worker"
) -> None:
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
    key, value, headers = make_dead_letter(record, reason, by=by, most=sender.limit(topics.dead_letters))
    sender.send(topics.dead_letters, value, key=key, headers=headers)


def make_dead_letter(
    record: Record, reason: str, *, by: str, most: int = 2 * RECORD_BYTES
) -> tuple[bytes | None, bytes | None, LetterHeaders]:
    """Return the (key, value, headers) of a record's dead letter; of at most `most` bytes, from some 4000 on."""
    headers: LetterHeaders = [
        ("reason", _text(reason, min(_REASON_BYTES, most // 4))),
        ("topic", record.topic),
        ("partition", str(record.partition)),
        ("offset", str(record.offset)),
        ("timestamp", str(record.timestamp)),
        ("refused-by", by),
    ]
    key, value = record.key, record.value
    if key is not None and len(key) > (room := min(_KEY_BYTES, most // 4)):
        headers.append(("key-bytes", str(len(key))))
        key = key[:room]
    own, size = _own_headers(record.headers, min(_HEADER_BYTES, most // 4))
    if len(own) < len(record.headers):
        headers.append(("headers-left-out", str(len(record.headers) - len(own))))
    room = min(RECORD_BYTES, max(0, most - _ENVELOPE_BYTES - len(key or b"") - len(headers[0][1] or b"") - size))
    if value is not None and len(value) > room:
        headers.append(("value-bytes", str(len(value))))
        value = value[:room]
    return key, value, [*headers, *own]


def _own_headers(headers: Headers, most: int) -> tuple[LetterHeaders, int]:
    """Return a refused record's headers under the names that they have in its letter, the first of them that fit.

    The second value is the bytes that they take, at most.
    """
    kept: LetterHeaders = []
    size = 0
    for name, value in headers:
        kept_name = _PREFIX + name if name in _OURS or name.startswith(_PREFIX) else name
        size += len(kept_name.encode()) + len(value or b"") + _HEADER_OVERHEAD
        if size > most:
            break
        kept.append((kept_name, value))
    return kept, min(size, most)


def _text(reason: str, most: int) -> bytes:
    """Return a reason that is UTF-8 and short, whatever the refused record made it quote."""
    return reason.encode(errors="backslashreplace")[:most].decode(errors="ignore").encode()


def read_dead_letters(
    kafka: Mapping[str, str], topics: Topics, *, on_missing: Literal["stop", "skip"] = "stop"
) -> Iterator[DeadLetter]:
    """Yield all dead letters that there are at the moment, oldest first; what is none of ours is passed over.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        on_missing: when Kafka removes some while they are read: `stop`, or `skip` them and log how many.

    Raises:
        KafkaClientError: when Kafka cannot be read, or has removed some (`stop`).
        TopicError: when the topic is recreated while it is read.
    """
    with Resources() as resources:
        reader = resources.add(TopicReader(kafka, [topics.dead_letters], from_beginning=True, on_missing=on_missing))
        for messages in reader.read_to_end():
            for message in messages:
                if (known := to_letter(message)) is not None:
                    yield known


def to_letter(message: Message) -> DeadLetter | None:
    """Return the dead letter that a message is; None for what is none of ours."""
    record = to_record(message).with_headers(message)
    headers = {
        name: value.decode(errors="replace") for name, value in record.headers if name in _OURS and value is not None
    }
    own = tuple((name.removeprefix(_PREFIX), value) for name, value in record.headers if name not in _OURS)
    try:
        origin = Record(
            headers["topic"],
            int(headers["partition"]),
            int(headers["offset"]),
            int(headers["timestamp"]),
            record.key,
            record.value,
            own,
        )
        cut = bool({"value-bytes", "key-bytes", "headers-left-out"} & headers.keys())
        return DeadLetter(record.offset, origin, headers["reason"], headers["refused-by"], cut)
    except (KeyError, ValueError):
        return None

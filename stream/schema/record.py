"""A consumed Kafka record, as the parts that know no Kafka client see it."""

from typing import NamedTuple


class Record(NamedTuple):
    """Topic, partition, offset, the record's own timestamp (ms), key and value."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None

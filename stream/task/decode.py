"""From a record of an input topic to its event, or to the reason why it cannot be used."""

from collections.abc import Callable
from functools import lru_cache, partial

from stream.schema.events import Behavior, Click, Impression, decode_behavior, decode_click, decode_impression
from stream.schema.partitioner import partition_of
from stream.schema.record import Record
from stream.schema.topics import RECORD_BYTES, Topics
from stream.settings import WorkerSettings

_USERS = 100_000
_IMPRESSION_BYTES = RECORD_BYTES // 2

Event = Behavior | Impression | Click


class RecordDecoder:
    """Decodes records, and refuses what lies in the wrong partition, runs ahead of the clock, or costs too much.

    Args:
        topics: the topic names.
        settings: limits.
        partitions: how many partitions the topics have.
    """

    def __init__(self, topics: Topics, settings: WorkerSettings, *, partitions: int) -> None:
        self._max_candidates = settings.max_candidates
        self._max_future_ms = settings.max_future_s * 1000
        self._partition_of = lru_cache(maxsize=_USERS)(partial(partition_of, partitions=partitions))
        self._decoders: dict[str, Callable[[bytes], Event]] = {
            topics.impressions: decode_impression,
            topics.clicks: decode_click,
            topics.behaviors: decode_behavior,
        }

    def decode(self, record: Record) -> Event:
        """Return what a record says.

        Raises:
            ValueError, or another of `events.DECODE_ERRORS`: saying why it cannot be used.
        """
        event = self._decoders[record.topic](record.value or b"")
        if record.key != event.user.encode():
            raise ValueError(f"the record's key must be its user {event.user!r}, it is {record.key!r}")
        if self._partition_of(record.key) != record.partition:
            raise ValueError("another partitioner put it here than Kafka's murmur2; set partitioner=murmur2_random")
        # Against the record's own time, not the wall clock: folding the log again must give the same.
        if event.ts > record.timestamp + self._max_future_ms:
            raise ValueError(f"`ts` {event.ts} is {event.ts - record.timestamp} ms ahead of the record's timestamp")
        if isinstance(event, Impression):
            self._check_cost(record, event)
        return event

    def _check_cost(self, record: Record, impression: Impression) -> None:
        if record.value is not None and len(record.value) > _IMPRESSION_BYTES:
            raise ValueError(f"{len(record.value)} bytes; at most {_IMPRESSION_BYTES}, so that the answer can be sent")
        candidates = impression.candidates
        if len(candidates) > self._max_candidates:
            raise ValueError(f"{len(candidates)} candidates; at most {self._max_candidates} are scored")
        if len({candidate.item for candidate in candidates}) < len(candidates):
            raise ValueError("a candidate is listed twice")

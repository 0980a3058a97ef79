"""Consumed records of one partition number, decoded, until it is their turn in event time."""

from collections.abc import Callable, Iterable

from stream.errors import WorkerError
from stream.schema.events import Click, Impression
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.record import Record, RecordBatch
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.answer import RecoveredAnswers
from stream.task.behavior_columns import BehaviorColumns
from stream.task.decode import Event, RecordDecoder, UnitCensus
from stream.task.merge import Merge

Entry = tuple[Record, Event | Exception] | BehaviorColumns
"""A record with what it says, or with why it cannot be used; or behaviours that lie side by side."""


class RecordQueue:
    """Decodes records as they come, and releases them in the order in which they must be processed.

    That is the order of event time; but an impression that was answered before waits for the behaviours that its answer
    knew.

    Args:
        topics: the topic names.
        settings: limits, and how long a topic that lags is waited for.
        recovered: the answers that wait for their impressions.
        offsets: topic → the first offset that is expected.
        features: packs the features of callers.
        partitions: how many partitions the topics have.
        formats: of the topics; records are added when they are ready for them.
    """

    def __init__(
        self,
        topics: Topics,
        settings: WorkerSettings,
        recovered: RecoveredAnswers[Entry],
        offsets: dict[str, int],
        features: FeatureSchema = NO_FEATURES,
        *,
        partitions: int,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._behaviors = topics.behaviors
        self._recovered = recovered
        self._next = dict(offsets)
        self._decoder = RecordDecoder(topics, settings, features, partitions=partitions, formats=formats)
        self._last_ts: dict[str, int] = {}
        # An impression goes before a behaviour of the same millisecond: no model may see what came of its answer.
        self._merge: Merge[Entry] = Merge(
            (topics.impressions, topics.clicks, topics.behaviors), patience=settings.max_topic_wait_s
        )

    def __len__(self) -> int:
        """Return how many records wait."""
        return len(self._merge) + self._recovered.held

    def backlog(self, topic: str) -> int:
        """Return how many records of one topic wait."""
        return self._merge.backlog(topic)

    @property
    def units(self) -> UnitCensus:
        """What unit the times of the records seem to have."""
        return self._decoder.units

    @property
    def forced(self) -> int:
        """Records released because a topic that lags had been waited for long enough."""
        return self._merge.forced

    def add(self, batch: RecordBatch) -> None:
        """Take consumed records; one that cannot be used keeps its place in the order.

        Args:
            batch: what was consumed. Its messages are asked for the headers of records that are, or may be, refused.

        Raises:
            WorkerError: for an offset that was there before: the log is another one.
        """
        topic, reached = batch.topic, self._next[batch.topic]
        for offset in batch.offsets:
            if offset < reached:
                raise WorkerError(
                    f"{topic}/{batch.partition} went back from offset {reached} to {offset}: its log was cut or"
                    " recreated. Stop the workers, move their state away, start again."
                )
            reached = offset + 1
        self._next[topic] = reached
        for piece in self._decoder.decode_batch(batch):
            if isinstance(piece, BehaviorColumns):
                self._merge.add_run(topic, piece)
                self._last_ts[topic] = int(piece.times[-1])
                continue
            place, event = piece
            record, message = batch.record(place), batch.message(place)
            if not isinstance(event, Exception):
                self._last_ts[topic] = event.ts
            if message is not None and isinstance(event, (Exception, Click)):
                record = record.with_headers(message)
            self._merge.add(topic, self._last_ts.get(topic, 0), (record, event))

    def release(
        self, at_end: Callable[[str], bool], folded: Callable[[], int], *, now: float, limit: int, drained: bool
    ) -> Iterable[Entry]:
        """Return the records that may be processed now, in order, each taken out when it is reached.

        Args:
            at_end: whether a topic of this partition has been read to its end.
            folded: the offset up to which `behaviors` are folded.
            now: monotonic clock, seconds.
            limit: the most records, besides behaviours that an answer knew.
            drained: whether all that the client had was added. Until then no topic is taken to bring nothing.
        """
        recovering = bool(self._recovered) or bool(self._recovered.held)
        # Recovered answers find the sequence that they were given for only in the order of then.
        strict = bool(self._recovered) or not drained
        entries = self._merge.drain(at_end, now, limit, strict=strict)
        if not recovering:
            return entries
        return self._recovered.in_answer_order(
            entries,
            _asked,
            folded=folded,
            next_behavior=lambda: self._merge.pop(self._behaviors) if self._merge.backlog(self._behaviors) else None,
        )


def _asked(entry: Entry) -> tuple[Impression, int] | None:
    """Return the impression of an entry, with the Kafka timestamp (ms) of its record."""
    if isinstance(entry, BehaviorColumns) or not isinstance(entry[1], Impression):
        return None
    return entry[1], entry[0].timestamp

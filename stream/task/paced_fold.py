"""The sequences of a partition, folded no further than allowed. Knows records, but no Kafka client."""

from collections import deque
from pathlib import Path

from state.behavior import BehaviorArray
from state.partition import Partition
from stream.schema.events import DECODE_ERRORS, Behavior, SequenceName
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.schema.position import LogIdentity, Origin
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.decode import RecordDecoder
from stream.task.fold import SequenceFold


class PacedFold:
    """Folds `behaviors` up to an offset that its user gives, and never further.

    For a standby copy that is what the partition's owner has committed. So the copy is a state that the owner had a
    moment ago, as far as sequences go: whoever takes it over reads its open requests in `scores`, as for any state that
    others went beyond. For a trainer it is what the next sample had read: so the ring still has the sample's sequence.

    Args:
        partition: the state; this owns it.
        topics: the topic names.
        settings: limits, as of the owner.
        log: which log `behaviors` is.
        begin: the offset to begin at where the state has none.
        features: packs the features of callers, as of the owner.
        partitions: how many partitions the topics have.
    """

    def __init__(
        self,
        partition: Partition,
        topics: Topics,
        settings: WorkerSettings,
        log: LogIdentity,
        begin: int,
        features: FeatureSchema = NO_FEATURES,
        *,
        partitions: int,
    ) -> None:
        self._partition = partition
        self._topic = topics.behaviors
        self.log = log
        """Which log `behaviors` is."""
        self._decoder = RecordDecoder(topics, settings, features, partitions=partitions)
        self._fold = SequenceFold(partition.sequences)
        self._waiting: deque[Record] = deque()
        self._timestamp = -1
        self._committed = partition.offsets.get(self._topic, -1)
        self.offset = max(begin, self._committed)
        """The next offset of `behaviors` to be folded."""
        self.next = self.offset
        """The next offset to be read."""

    @property
    def waiting(self) -> int:
        """Records that were read, and lie beyond the limit."""
        return len(self._waiting)

    def add(self, record: Record) -> None:
        """Take a record of `behaviors`; it is folded when the limit allows it."""
        self._waiting.append(record)
        self.next = record.offset + 1

    def fold(self, limit: int, *, before_ms: int = 0) -> None:
        """Fold what was read.

        Args:
            limit: the offset of `behaviors` up to which.
            before_ms: those with an older Kafka timestamp (ms) as well, whatever their offset.
        """
        while self._waiting and (self._waiting[0].offset < limit or self._waiting[0].timestamp < before_ms):
            record = self._waiting.popleft()
            self.offset, self._timestamp = record.offset + 1, record.timestamp
            try:
                event = self._decoder.decode(record)
            except DECODE_ERRORS:
                continue  # a dead letter, sent by the owner
            if isinstance(event, Behavior):
                self._fold.add(event)

    def find(self, user: str, name: SequenceName) -> BehaviorArray | None:
        """Return the sequence of that name, (L,) behaviours, oldest first; None when it is not, or no longer, here."""
        return self._fold.find(user, name.seen, name.checksum)

    def copy(self, directory: Path) -> None:
        """Copy what was committed to a directory that must not exist: hard links.

        Raises:
            StateError: when the disk does not take it.
        """
        self._partition.copy(directory)

    def commit(self) -> None:
        """Make what was folded durable.

        Raises:
            StateError: when the disk does not take it.
        """
        if self.offset != self._committed:
            self._fold.flush()
            origin = Origin(self.log, self._timestamp).encode()
            self._partition.commit({self._topic: self.offset}, {self._topic: origin})
            self._committed = self.offset

    def close(self) -> None:
        """Close the state; what was not committed is read again."""
        self._partition.close()

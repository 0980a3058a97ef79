"""The sequences of a partition, folded no further than allowed. Knows records, but no Kafka client."""

from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path

from state.behavior import BehaviorArray
from state.partition import Partition
from stream.schema.erasures import EraseMarker, ErasureLog, Voids
from stream.schema.events import DECODE_ERRORS, Behavior, SequenceName
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.position import LogIdentity, Origin
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.decode import RecordDecoder
from stream.task.fold import SequenceFold
from stream.task.joiner import Joiner


def forget_erased(partition: Partition, fold: SequenceFold, voids: Voids, *, folded: int, heard: int) -> set[str]:
    """Erase users in a state that no task works on; returns those whose erasure it had not heard of.

    Args:
        partition: the state.
        fold: folds its sequences.
        voids: what is void in the partition.
        folded: the next offset of `behaviors` to be folded.
        heard: the offset of `erasures` up to which the state had heard of them.
    """
    new = voids.take()
    if unheard := {each.user for each in new if each.offset >= heard}:
        # A state that was a task's, or came of a snapshot, has the open requests of then.
        requests = Joiner(partition.pending, window_ms=0)
        requests.erase(voids, unheard)
        requests.save()
        partition.mark_erased(unheard)
    # Whose marker is folded has begun anew already.
    fold.erase({each.user for each in new if each.void.behaviors >= folded})
    return unheard


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
        erasures: of the partition; what is void is neither folded nor kept.
        on_erased: told of users whose erasure the state had not heard of.
        formats: of the topics; a record that they are not ready for is waited for.
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
        erasures: ErasureLog | None = None,
        on_erased: Callable[[Collection[str]], None] = lambda _: None,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._on_erased = on_erased
        self._partition = partition
        self._topic = topics.behaviors
        self._erasures_topic = topics.erasures
        self._voids = Voids(ErasureLog() if erasures is None else erasures)
        self._erasures_committed = partition.offsets.get(topics.erasures, 0)
        self.log = log
        """Which log `behaviors` is."""
        self._decoder = RecordDecoder(topics, settings, features, partitions=partitions, formats=formats)
        self._formats = formats
        self._awaits_schemas = formats.reads(self._topic)
        self._fold = SequenceFold(partition)
        self._waiting: deque[Record] = deque()
        self._timestamp = -1
        self._committed = partition.offsets.get(self._topic, -1)
        self.offset = max(begin, self._committed)
        """The next offset of `behaviors` to be folded."""
        self.next = self.offset
        """The next offset to be read."""
        self.take_erasures()

    @property
    def waiting(self) -> int:
        """Records that were read, and lie beyond the limit, or have a schema that is not known yet."""
        return len(self._waiting)

    @property
    def first_waiting(self) -> int | None:
        """The offset of the first of them; None where none waits."""
        return self._waiting[0].offset if self._waiting else None

    @property
    def erased_to(self) -> int:
        """The offset of `erasures` below which all is done: nothing of it is in the state or its files."""
        return 0 if self._partition.unpurged else self._erasures_committed

    @property
    def erasures(self) -> int:
        """The offset of `erasures` behind those that were taken."""
        return self._voids.position

    def add(self, record: Record) -> None:
        """Take a record of `behaviors`; it is folded when the limit allows it."""
        self._waiting.append(record)
        self.next = record.offset + 1

    def fold(self, limit: int, *, before_ms: int = 0) -> None:
        """Fold what was read, up to the first record whose schema is not known yet.

        Args:
            limit: the offset of `behaviors` up to which.
            before_ms: those with an older Kafka timestamp (ms) as well, whatever their offset.
        """
        while self._waiting and (self._waiting[0].offset < limit or self._waiting[0].timestamp < before_ms):
            record = self._waiting[0]
            if self._awaits_schemas and not self._formats.ready(self._topic, record.value):
                return
            self._waiting.popleft()
            self.offset, self._timestamp = record.offset + 1, record.timestamp
            try:
                event = self._decoder.decode(record)
            except DECODE_ERRORS:
                continue  # a dead letter, sent by the owner
            if isinstance(event, Behavior):
                if not (voids := self._voids).by_user or not voids.behavior(event.user, record.offset):
                    self._fold.add(event)
            elif isinstance(event, EraseMarker):
                self._voids.mark(event.user, record.offset)
                self._partition.mark_erased([event.user])
                self._fold.erase([event.user])

    def take_erasures(self) -> None:
        """Forget users who were erased since the last call."""
        if self._voids.waiting:
            heard = self._erasures_committed
            if unheard := forget_erased(self._partition, self._fold, self._voids, folded=self.offset, heard=heard):
                self._on_erased(unheard)

    def voids(self, user: str, name: SequenceName) -> bool:
        """Say whether a sequence is one from before its user was erased."""
        return self._voids.answer(user, name.read_to)

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
        self.take_erasures()
        if (self.offset, self._voids.position) != (self._committed, self._erasures_committed):
            self._fold.flush()
            reached, erasures = {self._topic: self.offset}, self._voids.position
            origin = {self._topic: Origin(self.log, self._timestamp).encode()} if self.offset > self._committed else {}
            self._partition.commit(reached | ({self._erasures_topic: erasures} if erasures else {}), origin)
            self._committed, self._erasures_committed = self.offset, erasures

    def purge(self) -> None:
        """Take the bytes of those who were erased, as of the last commit, out of the files.

        Raises:
            StateError: when the disk does not take it.
        """
        self._partition.purge()

    def close(self) -> None:
        """Close the state; what was not committed is read again."""
        self._partition.close()

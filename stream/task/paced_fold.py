"""The sequences of a partition, folded no further than allowed. Knows records, but no Kafka client."""

from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from state.behavior import BehaviorArray
from state.partition import Partition
from stream.schema.erasures import EraseMarker, ErasureLog, Voids
from stream.schema.events import DECODE_ERRORS, Behavior, SequenceName
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.position import LogIdentity, Origin
from stream.schema.record import Record, RecordBatch
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.behavior_columns import BehaviorColumns
from stream.task.decode import Event, RecordDecoder
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
        self._waiting: deque[BehaviorColumns | tuple[Record, Event | Exception | None]] = deque()
        # None: its schema is awaited.
        self._count = 0
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
        return self._count

    @property
    def first_waiting(self) -> int | None:
        """The offset of the first of them; None where none waits."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        return int(first.offsets[0]) if isinstance(first, BehaviorColumns) else first[0].offset

    @property
    def erased_to(self) -> int:
        """The offset of `erasures` below which all is done: nothing of it is in the state or its files."""
        return 0 if self._partition.unpurged else self._erasures_committed

    @property
    def erasures(self) -> int:
        """The offset of `erasures` behind those that were taken."""
        return self._voids.position

    def add(self, batch: RecordBatch) -> None:
        """Take records of `behaviors`; they are folded when the limit allows it."""
        if self._awaits_schemas:
            self._waiting.extend((batch.record(place), None) for place in range(len(batch)))
        else:
            for piece in self._decoder.decode_batch(batch):
                self._waiting.append(
                    piece if isinstance(piece, BehaviorColumns) else (batch.record(piece[0]), piece[1])
                )
        self._count += len(batch)
        self.next = batch.offsets[-1] + 1

    def fold(self, limit: int, *, before_ms: int = 0) -> None:
        """Fold what was read, up to the first record whose schema is not known yet.

        Args:
            limit: the offset of `behaviors` up to which.
            before_ms: those with an older Kafka timestamp (ms) as well, whatever their offset.
        """
        while self._waiting:
            entry = self._waiting[0]
            if isinstance(entry, BehaviorColumns):
                folded = _first((entry.offsets < limit) | (entry.timestamps < before_ms))
                if not folded:
                    return
                self._waiting.popleft()
                if folded < len(entry):
                    self._waiting.appendleft(entry.part(folded, len(entry)))
                self._fold_columns(entry.part(0, folded))
            else:
                record, event = entry
                if record.offset >= limit and record.timestamp >= before_ms:
                    return
                if event is None and not self._formats.ready(self._topic, record.value):
                    return
                self._waiting.popleft()
                self._fold_one(record, event or self._decode(record))

    def _fold_columns(self, columns: BehaviorColumns) -> None:
        self._count -= len(columns)
        self.offset, self._timestamp = int(columns.offsets[-1]) + 1, int(columns.timestamps[-1])
        self._fold.add_columns(columns.kept(self._voids))

    def _decode(self, record: Record) -> Event | Exception:
        try:
            return self._decoder.decode(record)
        except DECODE_ERRORS as error:
            return error

    def _fold_one(self, record: Record, event: Event | Exception) -> None:
        """Fold what came by itself; what cannot be used is a dead letter, sent by the owner."""
        self._count -= 1
        self.offset, self._timestamp = record.offset + 1, record.timestamp
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


def _first(mask: npt.NDArray[np.bool_]) -> int:
    """Return how many of the first are set."""
    return len(mask) if mask.all() else int(mask.argmin())

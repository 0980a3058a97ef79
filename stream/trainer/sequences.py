"""The sequences that samples name: a fold of `behaviors` of the trainer's own, no further than the samples had read."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from state.behavior import BehaviorArray
from stream.errors import KafkaSilentError
from stream.kafka.clients import to_batches
from stream.kafka.reader import TopicReader
from stream.runtime.closing import close_all
from stream.runtime.progress import Progress
from stream.schema.events import SequenceName
from stream.task.paced_fold import PacedFold

_logger = logging.getLogger("samstream.trainer")

SEQUENCES = "sequences"
"""Folder of the partitions' states: the working ones beside the checkpoints, and a copy of them in each."""

_READ = 500
"""Records that are read at once; see `behavior_counter` for why so few."""
_MOST_WAITING = 5_000
"""Records of a partition that wait for a sample to have read them, from which on no more are read."""
_UNSAVED = 20_000
"""Behaviours folded from which on they are written to the disk, so that they do not fill the memory."""
_MANY = 50_000
"""Records to be folded for one sample from which on it says how far it is."""
_WAIT_S, _STEP_S = 0.01, 0.02
"""How long is waited for behaviours, and how long is folded at once: another rank of the trainer waits for that."""


def partition_path(directory: Path, number: int) -> Path:
    """Return where a partition's state lies in the trainer's directory or in a checkpoint."""
    return directory / SEQUENCES / f"partition-{number:05d}"


class NamedSequences:
    """Follows the samples of its partitions through `behaviors`, and gives the sequences that they name.

    A sample is never looked up before all is folded that it had read, and nothing is folded before a sample had read
    it, or all samples of then are surely learned. So the ring still has a sequence when its sample comes, however far
    this trainer is behind.

    Args:
        folds: partition number → its sequences; owned by this.
        reader: reads `behaviors` on from there.
        topic: `behaviors`.
        old_s: no sample is still to come that had not read what is older than this (s).
    """

    def __init__(self, folds: Mapping[int, PacedFold], reader: TopicReader, topic: str, *, old_s: float) -> None:
        self._old_s = old_s
        self._folds = folds
        self._reader = reader
        self._topic = topic
        self._paused: set[int] = set()
        self._ends: dict[int, int] = {}
        """Partition number → where it ended when Kafka was asked last."""
        self._folded = 0
        self._progress: Progress | None = None

    @property
    def position(self) -> int:
        """The sum of the offsets folded, and of those of erasures; it grows with every record."""
        return sum(fold.offset + fold.erasures for fold in self._folds.values())

    @property
    def erased_to(self) -> dict[int, int]:
        """Partition number → the offset of `erasures` below which all is done, as of the last `save`."""
        return {number: fold.erased_to for number, fold in self._folds.items()}

    @property
    def missing(self) -> int:
        """Records that Kafka had removed before they could be read."""
        return self._reader.missing

    def reach(self, number: int, read_to: int) -> bool:
        """Fold a partition as far as a sample had read, in small steps; False while more is to come: call again.

        What Kafka no longer has, as after a loss or when the topic was recreated, is neither folded for nor waited for.

        Raises:
            KafkaClientError: when `behaviors` cannot be read on.
            TopicError: when it was recreated.
        """
        if self._ends_before(number, read_to):
            return True
        deadline = time.monotonic() + _STEP_S
        self._tell(number, read_to)
        while not self._is_folded(number, read_to):
            if not self._receive(_WAIT_S) or time.monotonic() > deadline:
                return False
        return True

    def find(self, number: int, user: str, name: SequenceName) -> BehaviorArray | None:
        """Return a sequence, (L,) behaviours, oldest first; None when it cannot be had as of then."""
        return self._folds[number].find(user, name)

    def voids(self, number: int, user: str, name: SequenceName) -> bool:
        """Say whether a sequence is one from before its user was erased."""
        return self._folds[number].voids(user, name)

    def take_erasures(self) -> None:
        """Forget users who were erased since the last call."""
        for fold in self._folds.values():
            fold.take_erasures()

    def poll(self, *, idle: bool = False) -> None:
        """Read what has come, as far as there is room; see `reach` for what it raises.

        Args:
            idle: whether no sample waits. Then what is older than any that still comes is folded: else retention would
                overtake a partition in which nothing is shown.
        """
        self._receive(0.0)
        if idle:
            old = round(1000 * (time.time() - self._old_s))
            for number in self._folds:
                self._fold(number, 0, before_ms=old)

    def save(self, directory: Path) -> None:
        """Put a copy of all into a directory: what was folded up to now, with the offsets reached.

        Raises:
            StateError: when the disk does not take it.
        """
        (directory / SEQUENCES).mkdir(exist_ok=True)  # of several ranks, another one may have been first
        self._commit()
        for number, fold in self._folds.items():
            fold.copy(partition_path(directory, number))

    def close(self) -> None:
        """End the reading, and close the states."""
        if self._progress is not None:
            self._progress.close()
        close_all([self._reader.close, *(fold.close for fold in self._folds.values())])

    def _fold(self, number: int, limit: int, *, before_ms: int = 0) -> None:
        fold = self._folds[number]
        before = fold.waiting
        fold.fold(limit, before_ms=before_ms)
        if before != fold.waiting:
            self._folded += before - fold.waiting
            if self._folded >= _UNSAVED:
                self._commit()
            self._pace(number)

    def _is_folded(self, number: int, read_to: int) -> bool:
        self._fold(number, read_to)
        # Offsets without a record, such as of transaction markers, are read and never folded.
        first = self._folds[number].first_waiting
        return self._reader.positions[self._topic, number] >= read_to if first is None else first >= read_to

    def _tell(self, number: int, read_to: int) -> None:
        """Report how far it is where much is to be folded, as after a start without sequences."""
        left = max(0, read_to - self._folds[number].offset)
        if self._progress is None and left >= _MANY:
            self._progress = Progress(_logger, "folding_behaviors", "records", left, partition=number)
        if self._progress is not None:
            self._progress.reach(self._progress.total - left)
            if left < _READ:
                self._progress.close()
                self._progress = None

    def _receive(self, timeout_s: float) -> bool:
        """Take the next records; returns whether there were any."""
        messages = self._reader.read(timeout_s, limit=_READ)
        changed = set()
        for batch in to_batches(messages):
            self._folds[batch.partition].add(batch)
            changed.add(batch.partition)
        for number in changed:
            self._paused.discard(number)  # a reader that goes on behind removed records has resumed it
            self._pace(number)
        return bool(messages)

    def _pace(self, number: int) -> None:
        """Pause a partition of which enough waits; read it on when half of that is folded."""
        waiting = self._folds[number].waiting
        if waiting >= _MOST_WAITING and number not in self._paused:
            self._paused.add(number)
            self._reader.pause(self._topic, number)
        elif waiting < _MOST_WAITING // 2 and number in self._paused:
            self._paused.remove(number)
            self._reader.resume(self._topic, number)

    def _commit(self) -> None:
        for fold in self._folds.values():
            fold.commit()
        self._folded = 0

    def _ends_before(self, number: int, read_to: int) -> bool:
        """Say whether Kafka has nothing up to that offset: who wrote the sample had read it, so it is not to come."""
        if read_to <= max(self._reader.positions[self._topic, number], self._ends.get(number, 0)):
            return False
        try:
            self._ends[number] = self._reader.ask_end(self._topic, number)
        except KafkaSilentError:
            return False
        return read_to > self._ends[number]

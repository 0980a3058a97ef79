"""Standby copies on disk: beside the states, under names of their own, never in the way of an owner on this machine."""

import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from state.behavior import BEHAVIOR
from state.errors import LockedError, StateError
from state.partition import Partition
from state.records import Record
from stream.settings import StateSettings
from stream.task.restore import Compare
from stream.worker.local_state import open_state, reached
from stream.worker.snapshots import Snapshotter
from stream.worker.state_owner import difference_of

_logger = logging.getLogger("samstream.standbys")

_KEEP_S = 600.0
"""How long a copy that is of no use any more is kept, as in Kafka Streams: groups change back."""


class StandbyStore:
    """Opens and removes the standby copies of one directory.

    Args:
        settings: of the state.
        behaviors: the topic that states are a fold of.
        snapshotter: gives a copy its beginning where this machine has none.
        record: of a behaviour.
    """

    def __init__(
        self, settings: StateSettings, behaviors: str, snapshotter: Snapshotter, record: Record = BEHAVIOR
    ) -> None:
        self._record = record
        self._settings = settings
        self._behaviors = behaviors
        self._snapshotter = snapshotter
        self._unused_since: dict[Path, float] = {}

    def open(self, number: int, oldest: int, compare: Compare, check: Callable[[], None]) -> Partition | None:
        """Open the copy of a partition, of this machine's own former state or the newest snapshot if there is none.

        Args:
            number: the partition number.
            oldest: the oldest offset of `behaviors` that Kafka has.
            compare: says whether a state is of the topic of now.
            check: called while a snapshot is restored; what it raises ends it.

        Returns:
            The state; None where another worker of this machine has the partition, or keeps the copy.

        Raises:
            StateError: when it cannot be opened, or cannot be continued with what Kafka has.
            StreamError: when a state, the copy or the snapshots are another system's, or Kafka does not answer.
        """
        own, copy = self._settings.path(number), self._settings.standby_path(number)
        try:
            if own.exists():
                self._begin_with_own(number, own, copy, compare)
            if not copy.exists():
                self._snapshotter.restore(number, copy, compare=compare, check=check)
            partition = open_state(self._settings, copy, self._record)
        except LockedError:
            return None
        try:
            differs = self._differs(number, partition, compare)
        except BaseException:
            partition.close()
            raise
        offset = partition.offsets.get(self._behaviors)
        if offset is None or (offset >= oldest and not differs):
            return partition
        partition.close()
        shutil.rmtree(copy, ignore_errors=True)
        raise StateError(f"what was kept of it has read {self._behaviors} up to {offset}, and cannot go on from there")

    def remove(self, number: int) -> None:
        """Remove a copy that was closed."""
        shutil.rmtree(self._settings.standby_path(number), ignore_errors=True)

    def remove_unused(self, used: Collection[int], now: float) -> None:
        """Remove copies that have been of no use for ten minutes, but for those that another worker or system keeps.

        Args:
            used: the partition numbers whose copies are of use.
            now: a monotonic clock, seconds.
        """
        wanted = {self._settings.standby_path(number) for number in used}
        found = set(Path(self._settings.directory).glob(self._settings.standby_path(0).name.replace("0", "[0-9]")))
        self._unused_since = {path: self._unused_since.get(path, now) for path in found - wanted}
        for path, since in self._unused_since.items():
            if now - since >= _KEEP_S:
                try:
                    copy = open_state(self._settings, path)
                    foreign = bool(copy.offsets) and self._behaviors not in copy.offsets
                    copy.close()
                except LockedError:
                    continue
                except StateError:
                    foreign = False  # damaged: of no use to anybody
                if not foreign:
                    shutil.rmtree(path, ignore_errors=True)

    def _begin_with_own(self, number: int, own: Path, copy: Path, compare: Compare) -> None:
        """Make this worker's state, from when the partition was its own, the copy, if it is further.

        Raises:
            LockedError: when another worker of this machine has the partition: no copy is needed here.
            StreamError: when either is another system's.
        """
        state = open_state(self._settings, own)
        try:
            if self._differs(number, state, compare):
                return
            if copy.exists():
                partition = open_state(self._settings, copy)
                try:
                    further = not self._differs(number, partition, compare) and (
                        reached(partition, self._behaviors) >= reached(state, self._behaviors)
                    )
                finally:
                    partition.close()
                if further:
                    return
                shutil.rmtree(copy)
            state.copy(copy)
        finally:
            state.close()

    def _differs(self, number: int, state: Partition, compare: Compare) -> bool:
        return bool(difference_of(self._settings, number, state, self._behaviors, compare))

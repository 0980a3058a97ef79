"""The states of partitions on this machine: opened where they lie, else taken from a standby copy or a snapshot."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from state.behavior import BEHAVIOR
from state.errors import LockedError, StateError
from state.partition import Partition
from state.records import Record
from stream.runtime.logs import log
from stream.schema.position import Difference
from stream.settings import StateSettings
from stream.task.restore import Compare
from stream.worker.snapshots import Snapshotter
from stream.worker.state_owner import difference_of

_logger = logging.getLogger("samstream.worker")

_LOCK_WAIT_S = 30.0
_RETRY_S = 0.1
_SMALL_CACHE = 1 << 20


def open_state(
    settings: StateSettings, path: Path, record: Record | None = None, *, cache_bytes: int | None = None
) -> Partition:
    """Open a state as the settings have it.

    Args:
        settings: of the state.
        path: its directory.
        record: of a behaviour; None to leave it as it is.
        cache_bytes: memory for hot users; as the settings say when None.

    Raises:
        LockedError: when another process or object has it open.
        StateError: when it cannot be opened.
    """
    cache = settings.cache_mb << 20 if cache_bytes is None else cache_bytes
    opened = Partition.open(path, length=settings.length, slack=settings.slack, cache_bytes=cache, record=record)
    if opened.converted:
        features = ",".join(name for name, *_ in opened.meta.features) or "none"
        log(_logger, "features_changed", path=path, features_of_behaviors=features, values=opened.converted)
    return opened


def reached(state: Partition, behaviors: str) -> int:
    """Return up to which offset a state has read `behaviors`; −1 when it has read nothing."""
    return state.offsets.get(behaviors, -1)


class LocalState:
    """Opens the state of a partition that this worker is to work on.

    Args:
        settings: of the state.
        behaviors: the topic that states are a fold of.
        snapshotter: restores what is not on this machine.
        record: of a behaviour.
    """

    def __init__(
        self, settings: StateSettings, behaviors: str, snapshotter: Snapshotter, record: Record = BEHAVIOR
    ) -> None:
        self._record = record
        self._settings = settings
        self._behaviors = behaviors
        self._snapshotter = snapshotter

    def nearest_first(self, numbers: Iterable[int]) -> list[int]:
        """Return partition numbers with those first whose state is on this machine: they can be worked on at once."""
        return sorted(numbers, key=lambda number: (not self._is_here(number), number))

    def open(self, number: int, compare: Compare, check: Callable[[], None]) -> Partition:
        """Open the state of a partition; a new one where there is none.

        The worker that had it may still be closing it, or dying: it is waited for.

        Args:
            number: the partition number.
            compare: says whether a snapshot or a standby copy is of the topic of now.
            check: called while it takes time; what it raises ends it.

        Raises:
            LockedError: when another process has had it open for 30 s.
            StateError: when it cannot be opened or restored.
            WorkerError: when a state, a copy or the snapshots are another system's: nothing of them is removed.
            KafkaClientError: when `compare` gets no answer.
        """
        path = self._settings.path(number)
        if self._settings.standby_path(number).exists():
            self._adopt_standby(number, compare, check)
        if not path.exists():
            self._snapshotter.restore(number, path, compare=compare, check=check)
        return self._open(path, check, self._record)

    def _adopt_standby(self, number: int, compare: Compare, check: Callable[[], None]) -> None:
        """Put a standby copy in the place of the state if it is further, or the only one; else remove it."""
        path, copy = self._settings.path(number), self._settings.standby_path(number)
        try:
            further, difference = self._reached(number, copy, compare, check, wait_s=0.0)
        except LockedError:
            return  # another worker of this machine keeps it
        except StateError as error:
            self._drop(number, error)
            return
        if difference in ("id", "end"):  # of other partitions speaks who plans the recovery
            self._drop(
                number, f"it has read {self._behaviors} up to {further}, and the topic was recreated or cut since"
            )
            return
        if path.exists():
            own, difference = self._reached(number, path, compare, check)
            if difference:
                return  # who plans the recovery says what to do with it
            if own >= further:
                shutil.rmtree(copy, ignore_errors=True)
                return
        # After a crash between the two steps the copy is the only one, and is adopted.
        shutil.rmtree(path, ignore_errors=True)
        copy.rename(path)
        log(_logger, "standby_adopted", partition=number, behaviors=further)

    def _drop(self, number: int, reason: object) -> None:
        """Remove a standby copy that is of no use."""
        log(_logger, "standby_refused", logging.WARNING, partition=number, reason=reason)
        shutil.rmtree(self._settings.standby_path(number), ignore_errors=True)

    def _reached(
        self, number: int, path: Path, compare: Compare, check: Callable[[], None], *, wait_s: float = _LOCK_WAIT_S
    ) -> tuple[int, Difference]:
        """Return up to which offset a closed state has read `behaviors`, and how these differ now."""
        partition = self._open(path, check, cache_bytes=_SMALL_CACHE, wait_s=wait_s)
        try:
            difference = difference_of(self._settings, number, partition, self._behaviors, compare)
            return reached(partition, self._behaviors), difference
        finally:
            partition.close()

    def _open(
        self,
        path: Path,
        check: Callable[[], None],
        record: Record | None = None,
        *,
        cache_bytes: int | None = None,
        wait_s: float = _LOCK_WAIT_S,
    ) -> Partition:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return open_state(self._settings, path, record, cache_bytes=cache_bytes)
            except LockedError:
                check()
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)

    def _is_here(self, number: int) -> bool:
        return self._settings.path(number).exists() or self._settings.standby_path(number).exists()

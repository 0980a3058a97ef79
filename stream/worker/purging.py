"""Takes the bytes of erased users out of the states of a machine, in a thread of its own, while the worker answers."""

import logging
import re
import shutil
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from state.errors import LockedError, StateError
from state.partition import Partition
from stream.runtime.failpoints import failpoint
from stream.runtime.logs import log
from stream.schema.erasures import Erasures, Voids
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.task.fold import SequenceFold
from stream.task.paced_fold import forget_erased
from stream.task.task import Task
from stream.worker.local_state import open_state

_logger = logging.getLogger("samstream.worker")

_SWEEP_S, _SWEEPS = 60.0, 3
_SMALL_CACHE = 1 << 20
_LEFT_OVER, _OLD_S = ("partition-*.copy", "*.half"), 86_400.0
"""What a process leaves that dies while it stores or restores a snapshot, and when it is surely of no use any more."""
_STATE = re.compile(r"(?:partition|standby)-(\d{5})")


class Purger:
    """Purges the partitions that the worker has, and erases users in states that nobody has open.

    Those lie here from when this machine had their partitions, and would be taken up again if these came back.

    Args:
        settings: of the state.
        topics: the topic names.
        erasures: users who were erased.
    """

    def __init__(self, settings: StateSettings, topics: Topics, erasures: Erasures) -> None:
        self._settings = settings
        self._topics = topics
        self._erasures = erasures
        self._swept = self._sweeps = 0
        self._next_sweep = 0.0
        self._running: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="purging")

    def consider(self, tasks: Mapping[int, Task], now: float) -> None:
        """Do what is to be done next, unless something is under way.

        Args:
            tasks: partition number → task, of the partitions that the worker has.
            now: a monotonic clock, seconds.

        Raises:
            StateError: when the disk of a partition does not take it.
        """
        if (running := self._running) is not None:
            if not running.done():
                return
            self._running = None
            running.result()
        # Also of one that is never without changes: what is not committed yet is purged after its commit.
        due = next((task.partition for task in tasks.values() if task.partition.unpurged), None)
        if due is not None:
            failpoint("erased")
            self._running = self._pool.submit(due.purge)
        elif now >= self._next_sweep and (len(self._erasures) != self._swept or 0 < self._sweeps < _SWEEPS):
            # More than once: somebody may have had a state open for a moment, only to look at it.
            self._sweeps = self._sweeps + 1 if len(self._erasures) == self._swept else 1
            self._swept, self._next_sweep = len(self._erasures), now + _SWEEP_S
            self._running = self._pool.submit(self._sweep, set(tasks))

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown()

    def _sweep(self, used: Collection[int]) -> None:
        for path in sorted(Path(self._settings.directory).glob("*-*")):
            if (found := _STATE.fullmatch(path.name)) is None or (
                path == self._settings.path(int(found[1])) and (int(found[1]) in used)
            ):
                continue
            try:
                with closing(open_state(self._settings, path, cache_bytes=_SMALL_CACHE)) as state:
                    self._erase(state, int(found[1]))
            except LockedError:
                continue  # whoever has it open erases them
            except StateError as error:
                log(_logger, "erasing_failed", logging.WARNING, path=path, reason=error)
        for pattern in _LEFT_OVER:
            for path in Path(self._settings.directory).glob(pattern):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > _OLD_S:
                        shutil.rmtree(path, ignore_errors=True)

    def _erase(self, state: Partition, number: int) -> None:
        """Erase users in a state that nobody has open."""
        heard, voids = state.offsets.get(self._topics.erasures, 0), Voids(self._erasures.of(number))
        folded = state.offsets.get(self._topics.behaviors, 0)
        forget_erased(state, SequenceFold(state), voids, folded=folded, heard=heard)
        if heard != voids.position:
            state.commit({self._topics.erasures: voids.position})
            log(_logger, "erased_unused", partition=number, erasures=voids.position)
        state.purge()

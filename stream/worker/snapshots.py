"""Snapshots of a worker's partitions: taken between two commits, stored by a thread, restored where a disk is empty."""

import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from state.errors import SnapshotError, StateError
from state.partition import Partition
from state.snapshots import Snapshots
from stream.errors import WorkerError
from stream.runtime.logs import log
from stream.runtime.progress import Progress
from stream.schema.position import Difference, decode_origin
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.task.restore import Compare, SnapshotRestorer
from stream.worker.metrics import WorkerMetrics

_logger = logging.getLogger("samstream.snapshots")


class Snapshotter(SnapshotRestorer):
    """Takes a snapshot of each partition every `snapshot_interval_s`, and restores them, where a location is set.

    The copy of a partition is hard links, made by the thread that owns it within milliseconds; reading, checking and
    sending it is the work of one other thread, so one partition is stored at a time.

    Args:
        settings: where to, how often, how many are kept.
        topics: whose partitions these are.
        metrics: get how a restore stands.
    """

    def __init__(self, settings: StateSettings, topics: Topics, metrics: WorkerMetrics) -> None:
        super().__init__(settings, topics, self._note)
        self._metrics = metrics
        self._erasures = topics.erasures
        self._due: dict[int, float] = {}
        self._storing: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshots")

    def consider(self, partitions: Mapping[int, Partition], now: float) -> None:
        """Take a snapshot of the partition that has been due for longest, if one is, and no other is on its way.

        Args:
            partitions: by number; open, with nothing uncommitted.
            now: a monotonic clock, seconds.
        """
        if not self._settings.snapshots or (self._storing is not None and not self._storing.done()):
            return
        for number in partitions:
            self._due.setdefault(number, now + self._settings.snapshot_interval_s)
        number = min(partitions, key=self._due.__getitem__, default=-1)
        if number >= 0 and now >= self._due[number]:
            self._take(number, partitions[number], now)

    def _take(self, number: int, partition: Partition, now: float) -> None:
        self._due[number] = now + self._settings.snapshot_interval_s
        copy = self._settings.path(number).with_suffix(".copy")
        shutil.rmtree(copy, ignore_errors=True)
        try:
            partition.copy(copy)
        except StateError as error:
            self._failed(number, error)
            return
        self._storing = self._pool.submit(self._store, number, copy, dict(partition.offsets), dict(partition.origins))

    def hurry(self, number: int, now: float) -> None:
        """Have a snapshot taken soon: those from before hold users who were erased."""
        self._due[number] = now

    def expire(self, positions: Mapping[int, int]) -> None:
        """Remove snapshots that hold users whose erasure is longer ago than the grace time.

        Never the newest one: a newer one is on its way, as a partition is copied when users were erased in it.

        Args:
            positions: partition number → the offset of `erasures` that its snapshots must have reached.
        """
        wanted = {number: offset for number, offset in positions.items() if offset}
        if wanted and self._settings.snapshots and (self._storing is None or self._storing.done()):
            self._storing = self._pool.submit(self._expire, wanted)

    def _expire(self, positions: Mapping[int, int]) -> None:
        for number, wanted in positions.items():
            try:
                store = self.store(number)
                kept = store.numbers()
                old = [each for each in kept[:-1] if self._erasures_of(store, each) < wanted]
                if old and self._erasures_of(store, kept[-1]) >= wanted:
                    store.remove(old)
                    log(_logger, "snapshots_expired", partition=number, snapshots=",".join(map(str, old)))
            except SnapshotError as error:
                self._failed(number, error)

    def _erasures_of(self, store: Snapshots, snapshot: int) -> int:
        """Return up to which offset of `erasures` a snapshot has done them."""
        return store.manifest(snapshot).offsets.get(self._erasures, 0)

    def forget(self, number: int) -> None:
        """Take note that a partition was given back."""
        self._due.pop(number, None)
        with suppress(KeyError):
            self._metrics.restored_ratio.remove(str(number))

    def _note(self, number: int, came: int, progress: Progress) -> None:
        self._metrics.restore_bytes.inc(came)
        self._metrics.restored_ratio.labels(str(number)).set(progress.ratio)
        self._metrics.restore_seconds.set(progress.seconds)

    def close(self) -> None:
        """Wait for the snapshot that is on its way; raises what nobody has expected of it."""
        self._pool.shutdown()
        if self._storing is not None:
            self._storing.result()

    def _store(self, number: int, copy: Path, offsets: dict[str, int], origins: dict[str, str]) -> None:
        began = time.monotonic()
        try:
            store = self.store(number)
            # Stored beside another system's, each would remove the other's oldest ones.
            for newest in store.numbers()[-1:]:
                with suppress(SnapshotError):  # one that is damaged is nobody's, an earlier topic's goes with time
                    self.check_owner(number, newest, store.manifest(newest), self._against(origins))
            snapshot = store.save(copy, offsets, origins)
        except (SnapshotError, WorkerError) as error:
            self._failed(number, error)
            return
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        self.counts["snapshots"] += 1
        log(_logger, "snapshot", partition=number, snapshot=snapshot, seconds=time.monotonic() - began)

    def _against(self, origins: Mapping[str, str]) -> Compare:
        """Return what compares a snapshot with the origins of a state that was just read from Kafka."""
        now = decode_origin(origins.get(self._behaviors))

        def compare(_offsets: Mapping[str, int], stored: Mapping[str, str]) -> Difference:
            before = decode_origin(stored.get(self._behaviors))
            return before.difference(now.log) if before is not None and now is not None else ""

        return compare

    def _failed(self, number: int, error: Exception) -> None:
        self.counts["snapshots_failed"] += 1
        log(_logger, "snapshot_failed", logging.WARNING, partition=number, reason=error)

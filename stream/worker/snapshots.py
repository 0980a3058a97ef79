"""Snapshots of a worker's partitions: taken between two commits, stored by a thread, restored where a disk is empty."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from state.errors import SnapshotError, StateError
from state.partition import Partition
from state.snapshots import Manifest, Snapshots
from stream.errors import WorkerError
from stream.runtime.failpoints import failpoint
from stream.runtime.logs import log
from stream.runtime.progress import Progress
from stream.schema.position import Difference, decode_origin
from stream.schema.topics import Topics
from stream.settings import StateSettings
from stream.worker.metrics import WorkerMetrics

_logger = logging.getLogger("samstream.snapshots")

Compare = Callable[[Mapping[str, int], Mapping[str, str]], Difference]
"""Takes a state's offsets and origins; returns how `behaviors` differs now from the log that they are offsets of."""


class Snapshotter:
    """Takes a snapshot of each partition every `snapshot_interval_s`; does nothing where no location is set.

    The copy of a partition is hard links, made by the thread that owns it within milliseconds; reading, checking and
    sending it is the work of one other thread, so one partition is stored at a time.

    Args:
        settings: where to, how often, how many are kept.
        topics: whose partitions these are.
        metrics: get how a restore stands.
    """

    def __init__(self, settings: StateSettings, topics: Topics, metrics: WorkerMetrics) -> None:
        self._settings = settings
        self._behaviors = topics.behaviors
        self._metrics = metrics
        self._stores: dict[int, Snapshots] = {}
        self._due: dict[int, float] = {}
        self._storing: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self.counts: Counter[str] = Counter()
        """Snapshots stored, and failed."""

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

    def forget(self, number: int) -> None:
        """Take note that a partition was given back."""
        self._due.pop(number, None)
        with suppress(KeyError):
            self._metrics.restored_ratio.remove(str(number))

    def restore(
        self, number: int, directory: Path, *, compare: Compare, check: Callable[[], None] = lambda: None
    ) -> Manifest | None:
        """Restore the newest snapshot that is whole to a directory that does not exist; None when there is none.

        May be called by several threads at a time, for different partitions.

        Args:
            number: the partition number.
            directory: where to.
            compare: says whether a snapshot is of the topic of now; one of an earlier topic is passed over.
            check: called after each piece; what it raises ends the restore, and nothing of it stays.

        Raises:
            WorkerError: when the snapshots are another system's.
            StateError: when the local disk does not take it.
            KafkaClientError: when `compare` gets no answer.
        """
        if not self._settings.snapshots:
            return None
        store = self._store_of(number)
        for snapshot in reversed(store.numbers()):
            try:
                self._check_owner(number, snapshot, store.manifest(snapshot), compare)
                return self._restore(store, number, snapshot, directory, check)
            except SnapshotError as error:
                self.counts["snapshots_refused"] += 1
                log(_logger, "snapshot_refused", logging.WARNING, partition=number, snapshot=snapshot, reason=error)
        return None

    def _check_owner(self, number: int, snapshot: int, manifest: Manifest, compare: Compare) -> None:
        """See that a snapshot is of this system.

        Raises:
            WorkerError: when it is of other topics or another cluster.
            SnapshotError: when it is of an earlier topic of the same name.
        """
        offsets, location = manifest.offsets, self._settings.snapshots
        if offsets and self._behaviors not in offsets:
            raise WorkerError(
                f"snapshot {snapshot} of partition {number} in {location} is of other topics"
                f" ({', '.join(sorted(offsets))}), this system reads {self._behaviors}: give each topics.prefix a"
                " state.snapshots of its own"
            )
        origins = manifest.origins or {}
        difference = compare(offsets, origins) if offsets else ""
        if difference == "cluster":
            origin = decode_origin(origins.get(self._behaviors))
            raise WorkerError(
                f"snapshot {snapshot} of partition {number} in {location} is of another Kafka cluster"
                f" ({origin.log.cluster if origin else 'unknown'}): give each cluster a state.snapshots of its own"
            )
        if difference in ("id", "end"):  # of other partitions speaks who plans the recovery
            raise SnapshotError(
                f"it has read {self._behaviors} up to offset {offsets[self._behaviors]}, and the topic was recreated or"
                " cut since"
            )

    def _restore(
        self, store: Snapshots, number: int, snapshot: int, directory: Path, check: Callable[[], None]
    ) -> Manifest:
        size = store.manifest(snapshot).size
        progress = Progress(_logger, "restoring", "bytes", size, partition=number, snapshot=snapshot)

        def reached(done: int, _total: int) -> None:
            self._metrics.restore_bytes.inc(done - progress.done)
            progress.reach(done)
            self._metrics.restored_ratio.labels(str(number)).set(progress.ratio)
            self._metrics.restore_seconds.set(progress.seconds)
            failpoint("restoring")
            check()

        try:
            manifest = store.restore(snapshot, directory, reached)
        finally:
            progress.close()
        age_s = time.time() - manifest.taken_ms / 1000
        where = {"partition": number, "snapshot": snapshot}
        log(_logger, "restored", **where, bytes=manifest.size, seconds=progress.seconds, age_s=age_s)
        self.counts["restored"] += 1
        return manifest

    def close(self) -> None:
        """Wait for the snapshot that is on its way; raises what nobody has expected of it."""
        self._pool.shutdown()
        if self._storing is not None:
            self._storing.result()

    def _store(self, number: int, copy: Path, offsets: dict[str, int], origins: dict[str, str]) -> None:
        began = time.monotonic()
        try:
            store = self._store_of(number)
            # Stored beside another system's, each would remove the other's oldest ones.
            for newest in store.numbers()[-1:]:
                with suppress(SnapshotError):  # one that is damaged is nobody's, an earlier topic's goes with time
                    self._check_owner(number, newest, store.manifest(newest), self._against(origins))
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

    def _store_of(self, number: int) -> Snapshots:
        if number not in self._stores:
            self._stores[number] = Snapshots(self._settings.snapshots, number, keep=self._settings.snapshots_kept)
        return self._stores[number]

"""Restores the states of partitions from snapshots of this system's topic of now: verified, whole or not at all."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from state.errors import SnapshotError
from state.snapshots import Manifest, Snapshots
from stream.errors import WorkerError
from stream.runtime.failpoints import failpoint
from stream.runtime.logs import log
from stream.runtime.progress import Progress
from stream.schema.position import Difference, decode_origin
from stream.schema.topics import Topics
from stream.settings import StateSettings

_logger = logging.getLogger("samstream.snapshots")

Compare = Callable[[Mapping[str, int], Mapping[str, str]], Difference]
"""Takes the offsets and origins of a kept state; returns how `behaviors` differs now."""


class SnapshotRestorer:
    """Restores partitions from the snapshots that workers have stored, where a location is set.

    Args:
        settings: where they are.
        topics: whose partitions these are.
        note: told the partition number, the bytes that came and how the restore stands.
    """

    def __init__(
        self,
        settings: StateSettings,
        topics: Topics,
        note: Callable[[int, int, Progress], None] = lambda _number, _came, _progress: None,
    ) -> None:
        self._settings = settings
        self._behaviors = topics.behaviors
        self._note = note
        self._stores: dict[int, Snapshots] = {}
        self.counts: Counter[str] = Counter()
        """Snapshots restored, and refused."""

    def restore(
        self,
        number: int,
        directory: Path,
        *,
        compare: Compare,
        check: Callable[[], None] = lambda: None,
        among: Callable[[Mapping[int, int]], Iterator[int]] | None = None,
    ) -> Manifest | None:
        """Restore the newest snapshot that is whole to a directory that does not exist; None when there is none.

        May be called by several threads at a time, for different partitions.

        Args:
            number: the partition number.
            directory: where to.
            compare: says whether a snapshot is of the topic of now; one of an earlier topic is passed over.
            check: called after each piece; what it raises ends the restore, and nothing of it stays.
            among: chooses others than the newest: given snapshot → the offset up to which it has read `behaviors`,
                yields those to try, in order.

        Raises:
            WorkerError: when the snapshots are another system's.
            StateError: when the local disk does not take it.
            KafkaClientError: when `compare` gets no answer.
        """
        if not self._settings.snapshots:
            return None
        store = self.store(number)
        numbers: Iterator[int] = reversed(store.numbers())
        if among is not None:
            numbers = among(self._offsets(store))
        for snapshot in numbers:
            try:
                self.check_owner(number, snapshot, store.manifest(snapshot), compare)
                return self._restore(store, number, snapshot, directory, check)
            except SnapshotError as error:
                self._refuse(number, snapshot, error)
        return None

    def store(self, number: int) -> Snapshots:
        """Return the snapshots of a partition."""
        if number not in self._stores:
            self._stores[number] = Snapshots(self._settings.snapshots, number, keep=self._settings.snapshots_kept)
        return self._stores[number]

    def check_owner(self, number: int, snapshot: int, manifest: Manifest, compare: Compare) -> None:
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

    def _offsets(self, store: Snapshots) -> dict[int, int]:
        """Return snapshot → the offset up to which it has read `behaviors`, of those that can be read."""
        offsets = {}
        for snapshot in store.numbers():
            try:
                offsets[snapshot] = store.manifest(snapshot).offsets.get(self._behaviors, 0)
            except SnapshotError as error:
                self._refuse(store.number, snapshot, error)
        return offsets

    def _refuse(self, number: int, snapshot: int, error: SnapshotError) -> None:
        self.counts["snapshots_refused"] += 1
        log(_logger, "snapshot_refused", logging.WARNING, partition=number, snapshot=snapshot, reason=error)

    def _restore(
        self, store: Snapshots, number: int, snapshot: int, directory: Path, check: Callable[[], None]
    ) -> Manifest:
        size = store.manifest(snapshot).size
        progress = Progress(_logger, "restoring", "bytes", size, partition=number, snapshot=snapshot)

        def reached(done: int, _total: int) -> None:
            came = done - progress.done
            progress.reach(done)
            self._note(number, came, progress)
            failpoint("restoring", check)
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

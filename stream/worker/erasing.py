"""What a worker does for users who are erased beyond folding: files, snapshots, and saying how far it is."""

import time
from collections.abc import Mapping

from stream.kafka.erasure_feed import ErasureFeed
from stream.schema.erasures import Erasures
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.task import Task
from stream.worker.metrics import WorkerMetrics
from stream.worker.purging import Purger
from stream.worker.snapshots import Snapshotter

_EXPIRE_S = 60.0


class Erasing:
    """Follows `erasures`, has the bytes of erased users go from files and snapshots, and acknowledges what is done.

    Args:
        settings: the configuration.
        topics: the topic names.
        erasures: users who were erased; filled by this.
        snapshotter: of the worker.
        metrics: of the worker.
    """

    def __init__(
        self, settings: Settings, topics: Topics, erasures: Erasures, snapshotter: Snapshotter, metrics: WorkerMetrics
    ) -> None:
        self.erasures = erasures
        """Users who were erased."""
        self._feed = ErasureFeed(settings.kafka, topics, settings.erasure_group("worker"), erasures)
        self._grace_s = settings.state.erasure_grace_s
        self._snapshotter = snapshotter
        self._metrics = metrics
        self._purger = Purger(settings.state, topics, erasures)
        self._done: dict[int, int] = {}
        self._next_expiry = 0.0

    def begin(self) -> None:
        """Read all erasures there are, then follow.

        Raises:
            KafkaClientError: when they cannot be read.
        """
        self._feed.start()

    def consider(self, tasks: Mapping[int, Task], now: float) -> None:
        """Do what is due; call it every second or so.

        Args:
            tasks: partition number → task, of the partitions that the worker has.
            now: a monotonic clock, seconds.

        Raises:
            StreamError: when `erasures` can no longer be read.
            StateError: when the disk of a partition does not take it.
        """
        self._feed.check()
        self._purger.consider(tasks, now)
        done = {number: task.erased_to for number, task in tasks.items()}
        for number, offset in done.items():
            if offset > self._done.get(number, 0):
                self._snapshotter.hurry(number, now)
        self._done |= {number: offset for number, offset in done.items() if offset}
        self._feed.acknowledge(done)
        waiting = sum(task.partition.unpurged for task in tasks.values())
        self._metrics.erasures_lag.set(self._feed.lag + waiting)
        if now >= self._next_expiry:
            self._next_expiry = now + _EXPIRE_S
            before_ms = round(1000 * (time.time() - self._grace_s))
            self._snapshotter.expire({number: self.erasures.of(number).due(before_ms) for number in tasks})

    def close(self) -> None:
        """End the reading, and wait for what is under way."""
        self._purger.close()
        self._feed.close()

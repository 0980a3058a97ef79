"""The replay of the log by a worker that was given partitions: how much is left of what was there then."""

import logging
from collections.abc import Sequence

from stream.runtime.logs import log
from stream.runtime.progress import Progress
from stream.worker.metrics import WorkerMetrics

_logger = logging.getLogger("samstream.worker")


class CatchUp:
    """Follows a worker from an assignment until it has processed all that Kafka had at that moment.

    Args:
        metrics: get how the replay stands.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._progress: Progress | None = None
        self._partitions: list[int] = []

    @property
    def active(self) -> bool:
        """Whether something is left."""
        return self._progress is not None

    def begin(self, partitions: Sequence[int], left: int) -> None:
        """Take note of further partitions, and of the records that they bring to be processed."""
        if not left:
            if self._progress is None:
                self._metrics.replay_seconds.set(0)
            return
        self._partitions += partitions
        listed = ",".join(map(str, self._partitions))
        if self._progress is None:
            self._progress = Progress(_logger, "replaying", "records", left, partitions=listed)
        else:
            self._progress.extend(left, partitions=listed)
        self._show(self._progress, self._progress.total - self._progress.done)

    def note(self, left: int) -> None:
        """Take note of how many records are left."""
        if (progress := self._progress) is None:
            return
        progress.reach(progress.total - left)
        self._show(progress, left)
        if not left:
            seconds = progress.seconds
            rate = progress.done / seconds if seconds else 0.0
            self.forget()
            log(_logger, "caught_up", records=progress.done, seconds=seconds, records_per_s=rate)

    def forget(self) -> None:
        """Stop following."""
        if self._progress is not None:
            self._progress.close()
        self._progress = None
        self._partitions = []
        self._metrics.replay_left.set(0)
        self._metrics.replayed_ratio.set(1.0)

    def _show(self, progress: Progress, left: int) -> None:
        self._metrics.replay_left.set(left)
        self._metrics.replayed_ratio.set(progress.ratio)
        self._metrics.replay_seconds.set(progress.seconds)

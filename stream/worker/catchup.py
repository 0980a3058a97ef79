"""The replay of the log by a worker that was given partitions: how much is left of what was there then."""

import logging
from collections.abc import Sequence

from stream.runtime.logs import log
from stream.runtime.progress import Progress
from stream.worker.metrics import WorkerMetrics

_logger = logging.getLogger("samstream.worker")


class CatchUp:
    """Follows a worker from an assignment until it has worked off all that Kafka had at that moment.

    Args:
        metrics: get how the replay stands.
    """

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        self._progress: Progress | None = None

    @property
    def active(self) -> bool:
        """Whether something is left."""
        return self._progress is not None

    def begin(self, partitions: Sequence[int], left: int) -> None:
        """Take note of an assignment, and of the records that it brings to be worked off."""
        self.forget()
        if left:
            self._progress = Progress(_logger, "replaying", "records", left, partitions=",".join(map(str, partitions)))
            self._show(self._progress, left)
        else:
            self._metrics.replay_seconds.set(0)

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
        self._metrics.replay_left.set(0)
        self._metrics.replayed_ratio.set(1.0)

    def _show(self, progress: Progress, left: int) -> None:
        self._metrics.replay_left.set(left)
        self._metrics.replayed_ratio.set(progress.ratio)
        self._metrics.replay_seconds.set(progress.seconds)

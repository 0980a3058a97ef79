"""The replay of the log by a worker that was given partitions: how much is left of what was there then."""

import logging
from collections.abc import Sequence

from stream.runtime.logs import log
from stream.runtime.metrics import Family
from stream.runtime.progress import Progress

_logger = logging.getLogger("samstream.worker")


class CatchUp:
    """Follows a worker from an assignment until it has worked off all that Kafka had at that moment."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._records = 0
        self._seconds = 0.0

    @property
    def active(self) -> bool:
        """Whether something is left."""
        return self._progress is not None

    def begin(self, partitions: Sequence[int], left: int) -> None:
        """Take note of an assignment, and of the records that it brings to be worked off."""
        self.forget()
        self._records, self._seconds = 0, 0.0
        if left:
            self._progress = Progress(_logger, "replaying", "records", left, partitions=",".join(map(str, partitions)))

    def note(self, left: int) -> None:
        """Take note of how many records are left."""
        if (progress := self._progress) is None:
            return
        progress.reach(progress.total - left)
        self._records, self._seconds = progress.done, progress.seconds
        if not left:
            self.forget()
            rate = self._records / self._seconds if self._seconds else 0.0
            log(_logger, "caught_up", records=self._records, seconds=self._seconds, records_per_s=rate)

    def forget(self) -> None:
        """Stop following."""
        if self._progress is not None:
            self._progress.close()
        self._progress = None

    def families(self) -> tuple[Family, ...]:
        """Return how the replay stands."""
        left = self._progress.total - self._progress.done if self._progress else 0
        ratio = self._progress.ratio if self._progress else 1.0
        return (
            Family("replay_left_records", "of what Kafka had at the assignment, not worked off", {(): left}),
            Family("replayed_ratio", "share of it that is worked off", {(): ratio}),
            Family("replay_seconds", "what the replay after the last assignment has taken", {(): self._seconds}),
        )

"""What a trainer does for users who are erased beyond folding: checkpoints, and saying how far it is."""

import logging
import time
from pathlib import Path

from stream.kafka.erasure_feed import ErasureFeed
from stream.runtime.logs import log
from stream.schema.erasures import Erasures
from stream.settings import Settings
from stream.trainer.old_checkpoints import remove_before
from stream.trainer.sequences import NamedSequences

_logger = logging.getLogger("samstream.trainer")

_EXPIRE_S = 60.0
_LATE_MS = 60_000
"""How long after an erasure was asked for a trainer may have written a checkpoint without having heard of it."""


class Erasing:
    """Forgets users who are erased, and acknowledges that once a checkpoint without them is written.

    Args:
        settings: the configuration.
        sequences: what samples name.
        erasures: users who were erased.
        feed: fills `erasures`; started.
    """

    def __init__(self, settings: Settings, sequences: NamedSequences, erasures: Erasures, feed: ErasureFeed) -> None:
        self._directory = Path(settings.trainer.directory)
        self._grace_s = settings.state.erasure_grace_s
        self._sequences = sequences
        self._erasures = erasures
        self._feed = feed
        self._taken = 0
        self._saved = 0
        self._next_expiry = 0.0

    @property
    def lag(self) -> int:
        """Erasures that wait in Kafka, or that no checkpoint holds yet."""
        return self._feed.lag + len(self._erasures) - self._saved

    def take(self) -> None:
        """Forget users of whom this was heard since the last call.

        Raises:
            StreamError: when `erasures` can no longer be read.
        """
        self._feed.check()
        if len(self._erasures) == self._taken:
            return
        self._taken = len(self._erasures)
        self._sequences.take_erasures()
        log(_logger, "erased", erasures=self._taken)

    def acknowledge(self) -> None:
        """Say what is done: a checkpoint was written."""
        self._saved = self._taken
        self._feed.acknowledge(self._sequences.erased_to)

    def expire_checkpoints(self, now: float) -> None:
        """Remove checkpoints from before users were erased, where the grace time is over; never the newest.

        Args:
            now: a monotonic clock, seconds.
        """
        if now < self._next_expiry or not self._taken or self._saved != self._taken:
            return
        self._next_expiry = now + _EXPIRE_S
        newest_ms = self._erasures.newest_before(round(1000 * (time.time() - self._grace_s)))
        if newest_ms and (removed := remove_before(self._directory, newest_ms + _LATE_MS)):
            log(_logger, "checkpoints_expired", checkpoints=",".join(path.name for path in removed))

"""Publishes the models of a trainer to `model-updates`: deltas all the time, a base with each checkpoint."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from model.serialization.parts import split
from model.serialization.update import Update
from model.statistics.primary import STATISTICS
from stream.kafka.producer import ReliableProducer
from stream.runtime.failpoints import failpoint
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.schema.topics import RECORD_BYTES
from stream.schema.update_headers import UpdateHeaders
from stream.settings import KEPT_DELTAS
from stream.trainer.training import Training

_logger = logging.getLogger("samstream.trainer")

_LEAST_PART = 4096
"""Bytes of the smallest record that updates are cut into, and room for headers and key in what Kafka takes."""


class UpdateSource(Protocol):
    """What updates are published of: the learner of an arm, or the statistics of the stream."""

    @property
    def changed(self) -> bool:
        """Whether a delta would say anything."""

    def delta(self, arm: str) -> Update:
        """Return what has changed since the last delta."""

    def base(self, arm: str) -> Update:
        """Return everything."""


class UpdatePublisher:
    """Sends what the arms have learned, and what was counted for them.

    Args:
        sender: where updates go.
        topic: the topic `model-updates`.
        training: the arms.
        statistics: what was counted; None where no arm reads that.
    """

    def __init__(
        self, sender: ReliableProducer, topic: str, training: Training, statistics: UpdateSource | None = None
    ) -> None:
        self._sender = sender
        self._topic = topic
        self._training = training
        self._statistics = statistics
        self._part_bytes = min(RECORD_BYTES, max(_LEAST_PART, sender.limit(topic) - _LEAST_PART))
        self._bases: Counter[str] = Counter()
        self.samples = 0
        """Distinct labelled items that the trainer has consumed in its lineage."""
        self._log_limit = LogLimit()
        self.withheld: Counter[str] = Counter()
        """Arm → updates that were not published, since its parameters are not finite."""

    def publish_bases(self) -> None:
        """Send all parameters of every arm, and all counts."""
        for name, source in self._sources():
            # Different keys in turn: compaction leaves the last whole base while the next one is being written.
            key = f"base-{self._bases[name] % 2}" if self._bases[name] else "base-start"
            self._bases[name] += 1
            self._publish(source.base(name), f"{name}/{key}", ())

    def publish_deltas(self) -> None:
        """Send what has changed in every arm and in the counts since the last delta of each."""
        for name, source in self._sources():
            if source.changed:
                update = source.delta(name)
                clicks = self._training.arms[name].take_clicks() if name in self._training.arms else ()
                self._publish(update, f"{name}/delta-{update.version % KEPT_DELTAS}", clicks)

    def _sources(self) -> Iterator[tuple[str, UpdateSource]]:
        for name, arm in self._training.arms.items():
            yield name, arm.learner
        if self._statistics is not None:
            yield STATISTICS, self._statistics

    def _publish(self, update: Update, key: str, clicks: tuple[int, ...]) -> None:
        if update.piece.number >= update.piece.ranks:
            return  # this rank owns no rows
        if why := update.unusable:
            self._withhold(update, why)
            return
        if update.piece.number:  # of compaction, each rank's piece has keys of its own
            key = f"rank-{update.piece.number}/{key}"
        announced = UpdateHeaders(
            arm=update.arm,
            kind=update.kind,
            epoch=update.epoch,
            version=update.version,
            samples=self.samples,
            clicks=clicks,
        )
        for number, part in enumerate(split(update, self._part_bytes)):
            failpoint("part")
            headers = None if number else announced.headers()
            self._sender.send(self._topic, part, key=f"{key}/{number}", partition=0, headers=headers)

    def _withhold(self, update: Update, why: str) -> None:
        """Take note of an update that no worker would serve."""
        self.withheld[update.arm] += 1
        if self._log_limit.admit(update.arm) is not None:
            log(
                _logger,
                "update_withheld",
                logging.ERROR,
                arm=update.arm,
                updates=self.withheld[update.arm],
                reason=f"the arm has diverged: {why}",
                remedy="workers serve its last good model on, and checkpoints keep it: start the trainer again to go"
                " back to it, with smaller steps in the arm's optim if it comes again",
            )

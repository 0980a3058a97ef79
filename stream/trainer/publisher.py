"""Publishes the models of a trainer to `model-updates`: deltas all the time, a base with each checkpoint."""

import logging
import time
from collections import Counter

from model.serialization.parts import split
from model.serialization.update import Update
from stream.kafka.producer import ReliableProducer
from stream.runtime.failpoints import failpoint
from stream.runtime.logs import log
from stream.schema.topics import RECORD_BYTES
from stream.schema.update_headers import UpdateHeaders
from stream.settings import KEPT_DELTAS
from stream.trainer.training import Training

_logger = logging.getLogger("samstream.trainer")

_LOG_INTERVAL_S = 30.0
_LEAST_PART = 4096
"""Bytes of the smallest record that updates are cut into, and room for headers and key in what Kafka takes."""


class UpdatePublisher:
    """Sends what the arms have learned.

    Args:
        sender: where updates go.
        topic: the topic `model-updates`.
        training: the arms.
    """

    def __init__(self, sender: ReliableProducer, topic: str, training: Training) -> None:
        self._sender = sender
        self._topic = topic
        self._training = training
        self._part_bytes = min(RECORD_BYTES, max(_LEAST_PART, sender.limit(topic) - _LEAST_PART))
        self._bases: Counter[str] = Counter()
        self._logged: dict[str, float] = {}
        self.withheld: Counter[str] = Counter()
        """Arm → updates that were not published, since its parameters are not finite."""

    def publish_bases(self) -> None:
        """Send all parameters of every arm."""
        for name, arm in self._training.arms.items():
            # Different keys in turn: compaction leaves the last whole base while the next one is being written.
            key = f"base-{self._bases[name] % 2}" if self._bases[name] else "base-start"
            self._bases[name] += 1
            self._publish(arm.learner.base(name), f"{name}/{key}", ())

    def publish_deltas(self) -> None:
        """Send what has changed in every arm since its last delta."""
        for name, arm in self._training.arms.items():
            if arm.learner.changed:
                update = arm.learner.delta(name)
                self._publish(update, f"{name}/delta-{update.version % KEPT_DELTAS}", arm.take_clicks())

    def _publish(self, update: Update, key: str, clicks: tuple[int, ...]) -> None:
        if why := update.unusable:
            self._withhold(update, why)
            return
        announced = UpdateHeaders(
            arm=update.arm,
            kind=update.kind,
            epoch=update.epoch,
            version=update.version,
            samples=self._training.counts["samples"],
            clicks=clicks,
        )
        for number, part in enumerate(split(update, self._part_bytes)):
            failpoint("part")
            headers = None if number else announced.headers()
            self._sender.send(self._topic, part, key=f"{key}/{number}", partition=0, headers=headers)

    def _withhold(self, update: Update, why: str) -> None:
        """Take note of an update that no worker would serve."""
        self.withheld[update.arm] += 1
        now = time.monotonic()
        if now - self._logged.get(update.arm, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
            self._logged[update.arm] = now
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

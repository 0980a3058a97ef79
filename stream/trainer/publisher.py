"""Publishes the models of a trainer to `model-updates`: deltas all the time, a base with each checkpoint."""

from collections import Counter

from model.serialization.parts import split
from model.serialization.update import Update
from stream.kafka.producer import ReliableProducer
from stream.runtime.failpoints import failpoint
from stream.schema.topics import RECORD_BYTES
from stream.schema.update_headers import UpdateHeaders
from stream.settings import KEPT_DELTAS
from stream.trainer.training import Training

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

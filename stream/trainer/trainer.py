"""The trainer: one pass over `samples`, updates every half second, checkpoints now and then.

A checkpoint holds everything: parameters, optimisers, the offsets reached, the ids seen. What was learned after the
newest one is learned again after a crash, so in the lineage that survives each sample counts once. A start, after
whatever end, raises the epoch: workers then take this trainer's base and refuse what an older one may still send.
"""

import logging
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from confluent_kafka import Message

from model.device import prepare, resolve
from model.errors import CheckpointError
from model.serialization import checkpoint
from model.serialization.checkpoint import Checkpoint
from model.serialization.parts import split
from model.serialization.update import Update
from stream.kafka import topic_admin as topics
from stream.kafka.clients import to_record
from stream.kafka.dead_letters import send_dead_letter
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.runtime.failpoints import failpoint
from stream.runtime.logs import log
from stream.runtime.metrics import Telemetry
from stream.runtime.metrics_server import Server
from stream.schema.events import DECODE_ERRORS, decode_sample
from stream.schema.topics import RECORD_BYTES, Topics
from stream.schema.update_headers import UpdateHeaders, read_update_headers
from stream.settings import KEPT_DELTAS, Settings
from stream.trainer.metrics import trainer_reading
from stream.trainer.training import Lesson, Training

_logger = logging.getLogger("samstream.trainer")

_POLL_S = 0.02
_GATHER_S = 0.1
"""How long the first lesson of a step waits for more: a step on many costs little more than one on few."""
_READING_S = 1.0
_LEAST_PART = 4096
"""Bytes of the smallest record that updates are cut into, and room for headers and key in what Kafka takes."""
_LOOK_BACK = 200
"""Records of `model-updates` among whose last the newest epoch is looked for first."""


class Trainer:
    """Teaches the arms of `trainer.arms`. Of two that do, workers hear only the one that began later.

    Args:
        settings: the configuration; arms and models as the workers have them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = Topics(settings.topics.prefix)
        prepare(threads=settings.trainer.threads)
        self._training = Training(settings, device=str(resolve(settings.trainer.device)))
        self._directory = Path(settings.trainer.directory)
        self._sender: ReliableProducer
        self._epoch = 0
        self._saved: dict[tuple[str, int], int] = {}
        self._bases: Counter[str] = Counter()
        self._telemetry = Telemetry("trainer")
        self._saved_at = time.monotonic()
        self._save_s = 0.0
        self._next_reading = 0.0
        self._records = 0
        self._lessons: list[tuple[Lesson, Message]] = []
        self._batch = 0
        self._gathering_since = 0.0
        self._next_update = 0.0
        self._next_checkpoint = 0.0

    def run(self, stop: threading.Event) -> None:
        """Train until `stop` is set; then publish, save and return.

        Raises:
            StreamError: when the work cannot go on.
            CheckpointError: when no checkpoint is whole though there are some, when the newest whole one is of other
                models, or when another trainer works in the same directory.
        """
        topics.verify(self._settings.kafka, self._topics)
        self._sender = ReliableProducer(self._settings.kafka, topics.record_limits(self._settings.kafka, self._topics))
        with closing(Server(self._settings.trainer.metrics, self._telemetry)), checkpoint.sole_writer(self._directory):
            offsets = self._resume(stop)
            tail = TopicReader(self._settings.kafka, [self._topics.samples], from_beginning=True, offsets=offsets)
            try:
                self._publish_bases()
                self._next_checkpoint = time.monotonic() + self._settings.trainer.checkpoint_interval_s
                while not stop.is_set():
                    self._turn(tail)
                self._learn()
                self._publish_deltas()
                self._save(tail)
            finally:
                tail.close()

    def _turn(self, tail: TopicReader) -> None:
        size = self._settings.trainer.batch
        messages = tail.read(_POLL_S, limit=size - len(self._lessons))
        now = time.monotonic()
        if not self._lessons:
            self._gathering_since = now
        self._lessons += [(lesson, message) for message in messages if (lesson := self._taken(message)) is not None]
        if len(self._lessons) >= size or now - self._gathering_since >= _GATHER_S:
            self._learn()
        if now >= self._next_update:
            self._learn()
            self._publish_deltas()
            self._next_update = now + self._settings.trainer.update_interval_s
        if now >= self._next_checkpoint:
            self._learn()
            if self._save(tail):
                failpoint("saved")
                self._publish_bases()
            self._next_checkpoint = now + self._settings.trainer.checkpoint_interval_s
        if now >= self._next_reading:
            self._next_reading = now + _READING_S
            self._telemetry.publish(
                trainer_reading(
                    self._training,
                    done=self._records,
                    lag=tail.lag(),
                    epoch=self._epoch,
                    checkpoint_age_s=now - self._saved_at,
                    checkpoint_s=self._save_s,
                    batch=self._batch,
                )
            )
        self._sender.poll()

    def _learn(self) -> None:
        """Take a step on what was gathered; samples whose step is not finite go to the dead letters."""
        self._batch = len(self._lessons) or self._batch
        lost = self._training.learn([lesson for lesson, _ in self._lessons])
        for index, arms in sorted(lost.items()):
            self._refuse(self._lessons[index][1], f"loss or gradient is not finite: not learned by {', '.join(arms)}")
        self._lessons = []

    def _taken(self, message: Message) -> Lesson | None:
        """Return what is new in a sample; one that cannot be read goes to the dead letters."""
        self._records += 1
        try:
            return self._training.take(decode_sample(message.value() or b""))
        except DECODE_ERRORS as error:
            self._refuse(message, str(error))
            return None

    def _refuse(self, message: Message, reason: str) -> None:
        record = to_record(message)
        self._training.counts["refused"] += 1
        log(
            _logger,
            "dead_letter",
            logging.WARNING,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )
        send_dead_letter(self._sender, self._topics, record, reason, by="trainer")

    def _resume(self, stop: threading.Event) -> dict[tuple[str, int], int]:
        """Take up the newest whole checkpoint and begin the next epoch; returns the offsets to read on from."""
        training = self._training
        found = checkpoint.load_newest(self._directory)
        for refused in found.refused:
            log(_logger, "checkpoint_refused", logging.WARNING, path=refused.path, reason=refused.reason)
        saved = found.checkpoint
        if saved is None and found.refused:
            raise CheckpointError(
                f"no checkpoint in {self._directory} can be read (the newest: {found.refused[0].reason}). Move them"
                " away to learn everything again from what Kafka retains."
            )
        checkpoint.set_aside(found.refused)
        if saved is not None:
            if forgotten := saved.arms.keys() - training.students.keys():
                log(_logger, "arms_forgotten", logging.WARNING, arms=",".join(sorted(forgotten)))
            for name, student in training.students.items():
                if name in saved.arms:
                    student.resume(saved.arms[name])
            training.seen.restore(saved.seen)
            training.counts.update(saved.counts)
        epoch = 1 + max(saved.epoch if saved else 0, self._published_epoch(stop))
        for student in training.students.values():
            student.learner.begin_epoch(epoch)
            if self._settings.trainer.progressive_log:
                student.open_log(Path(self._settings.trainer.progressive_log))
        self._epoch = epoch
        log(
            _logger,
            "started",
            arms=",".join(training.students),
            epoch=epoch,
            resumed=saved is not None,
            samples=training.counts["samples"],
        )
        return {(self._topics.samples, number): offset for number, offset in saved.offsets.items()} if saved else {}

    def _published_epoch(self, stop: threading.Event) -> int:
        """Return the newest epoch in `model-updates`, 0 when there is none: lost checkpoints are no way back."""
        newest = 0
        for whole in (False, True):
            if newest:
                break
            tail = TopicReader(
                self._settings.kafka, [self._topics.model_updates], from_beginning=whole, back=_LOOK_BACK
            )
            try:
                while not tail.at_end() and not stop.is_set():
                    for message in tail.read(1.0):
                        if announced := read_update_headers(message.headers()):
                            newest = max(newest, announced.epoch)
            finally:
                tail.close()
        return newest

    def _publish_bases(self) -> None:
        for name, student in self._training.students.items():
            # Different keys in turn: compaction leaves the last whole base while the next one is being written.
            key = f"base-{self._bases[name] % 2}" if self._bases[name] else "base-start"
            self._bases[name] += 1
            self._publish(student.learner.base(name), f"{name}/{key}", ())

    def _publish_deltas(self) -> None:
        for name, student in self._training.students.items():
            if student.learner.changed:
                update = student.learner.delta(name)
                self._publish(update, f"{name}/delta-{update.version % KEPT_DELTAS}", student.take_clicks())

    def _publish(self, update: Update, key: str, clicks: tuple[int, ...]) -> None:
        announced = UpdateHeaders(
            arm=update.arm,
            kind=update.kind,
            epoch=update.epoch,
            version=update.version,
            samples=self._training.counts["samples"],
            clicks=clicks,
        )
        room = min(RECORD_BYTES, max(_LEAST_PART, self._sender.limit(self._topics.model_updates) - _LEAST_PART))
        for number, part in enumerate(split(update, room)):
            failpoint("part")
            headers = None if number else announced.headers()
            self._sender.send(self._topics.model_updates, part, key=f"{key}/{number}", partition=0, headers=headers)

    def _save(self, tail: TopicReader) -> bool:
        """Write a checkpoint of everything up to the offsets read, unless the last one says the same."""
        # Refused samples are in the dead letters before the offsets pass them.
        self._sender.flush()
        training = self._training
        if self._saved == tail.positions:
            return False
        began = time.monotonic()
        for student in training.students.values():
            student.flush_log()
        path = checkpoint.save(
            self._directory,
            Checkpoint(
                epoch=self._epoch,
                offsets={number: offset for (_, number), offset in tail.positions.items()},
                arms={name: student.save() for name, student in training.students.items()},
                seen=training.seen.to_array(),
                counts=training.counts,
            ),
            keep=self._settings.trainer.keep,
        )
        self._saved = dict(tail.positions)
        self._saved_at = time.monotonic()
        self._save_s = self._saved_at - began
        log(_logger, "checkpoint", path=path, **dict(sorted(training.counts.items())))
        for name, student in training.students.items():
            lately = student.metrics.last_window()
            log(
                _logger,
                "progress",
                arm=name,
                samples=student.metrics.total().samples,
                log_loss=lately.log_loss,
                ne=lately.ne,
                auc=lately.auc,
                calibration=lately.calibration,
                skipped=student.learner.skipped,
            )
        return True

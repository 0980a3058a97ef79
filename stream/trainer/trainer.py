"""The trainer: one pass over `samples`, updates every half second, checkpoints now and then.

A checkpoint holds everything: parameters, optimisers, offsets reached, ids seen, sequences. What was learned after the
newest one is learned again after a crash, so in the lineage that survives each sample counts once. A start, after
whatever end, raises the epoch: workers then take this trainer's base and refuse what an older one may still send.

Several ranks are one trainer: they take turns together, and each reads and folds some of the partitions, owns some rows
of the tables, and publishes and saves what it owns.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from confluent_kafka import Message

from model.embedding.shards import state_of
from model.serialization import checkpoint
from model.serialization.checkpoint import ArmState, Checkpoint
from model.statistics.primary import STATISTICS
from stream.kafka.clients import to_record
from stream.kafka.dead_letters import send_dead_letter
from stream.kafka.identity import LogWatch
from stream.kafka.producer import ReliableProducer
from stream.runtime.failpoints import failpoint
from stream.runtime.health import Health
from stream.runtime.logs import log
from stream.schema.events import DECODE_ERRORS
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.position import encode_origins
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.trainer.arm_trainer import ArmStep, diverged
from stream.trainer.behavior_counter import BehaviorCounter
from stream.trainer.erasing import Erasing
from stream.trainer.examples import TrainingExample
from stream.trainer.metrics import TrainerMetrics
from stream.trainer.publisher import UpdatePublisher
from stream.trainer.samples import ReadSample, SampleReader
from stream.trainer.saving import save_together
from stream.trainer.sequences import NamedSequences
from stream.trainer.team import Agreed, Team, Turn
from stream.trainer.training import Training

_logger = logging.getLogger("samstream.trainer")

_GATHER_S = _POLL_S = 0.2
"""How long the first example of a step waits for more, if no update is due before: a step on many costs little more
than one on few, and what has come of one request reads its sequence once. No turn waits longer."""
_GATHER_TOGETHER_S, _POLL_TOGETHER_S = 0.05, 0.02
"""The same of several ranks, which wait for one another: one whose partitions are silent does not stall the others."""
_REPORT_INTERVAL_S = 1.0


class Trainer:
    """The turns of a trainer. `run_trainer` puts it together.

    Args:
        settings: the configuration.
        topics: the topic names.
        training: the arms, resumed.
        counter: counts `behaviors` for them; None where none of them reads that.
        samples: reads `samples` on from the checkpoint.
        sequences: what they name, as of the checkpoint.
        erasing: sees to it that users who are erased are gone.
        updates: watches `model-updates`.
        sender: where updates and dead letters go.
        metrics: the trainer's.
        health: the trainer's.
        team: the ranks of it.
        epoch: of this life of the trainer.
        formats: of the topics.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        training: Training,
        counter: BehaviorCounter | None,
        samples: SampleReader,
        sequences: NamedSequences,
        erasing: Erasing,
        updates: LogWatch,
        sender: ReliableProducer,
        metrics: TrainerMetrics,
        health: Health,
        team: Team,
        *,
        epoch: int,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._formats = formats
        self._settings = settings.trainer
        self._topics = topics
        self._training = training
        self._samples = samples
        self._sequences = sequences
        self._erasing = erasing
        self._updates = updates
        self._sender = sender
        self._counter = counter
        self._publisher = UpdatePublisher(sender, topics.model_updates, training, counter)
        self._metrics = metrics
        self._health = health
        self._team = team
        alone = team.rank.ranks == 1
        self._gather_s, self._poll_s = (_GATHER_S, _POLL_S) if alone else (_GATHER_TOGETHER_S, _POLL_TOGETHER_S)
        self._epoch = epoch
        self._missed_before = training.counts["records_missing"]
        self._saved: tuple[dict[tuple[str, int], int], int] = {}, -1
        self._records = 0
        self._gathered: list[tuple[TrainingExample, Message]] = []
        now = time.monotonic()
        self._saved_at = now
        self._gathering_since = now
        self._next_update = now
        self._next_report = now
        self._next_checkpoint = now + self._settings.checkpoint_interval_s

    def run(self, stop: threading.Event) -> None:
        """Train until `stop` is set, then publish and save.

        Raises:
            StreamError: when the work cannot go on.
        """
        self._agree(Turn())
        self._publisher.publish_bases()
        while not self._turn(stopping=stop.is_set()):
            pass

    def _turn(self, *, stopping: bool) -> bool:
        """Gather samples, learn when there are enough, publish and save when it is time; returns whether it ends."""
        settings, failure = self._settings, None
        try:
            if not stopping:
                self._gather()
        except Exception as error:  # first the other ranks are told
            failure = error
        now = time.monotonic()
        agreed = self._agree(
            Turn(
                learn=len(self._gathered) >= settings.batch_size or now - self._gathering_since >= self._gather_s,
                publish=now >= self._next_update,
                save=now >= self._next_checkpoint,
                restart=self._updates.check(now, lambda: ()) is not None,
                stop=stopping,
            ),
            failure,
        )
        turn = agreed.turn
        if turn:
            self._learn(agreed.steps)
        if turn.publish or turn.stop:
            self._publisher.publish_deltas()
            self._next_update = now + settings.update_interval_s
        if turn.save or turn.stop:
            if self._save() and not turn.stop:
                failpoint("saved")
                self._publish_bases()
            self._next_checkpoint = now + settings.checkpoint_interval_s
        if turn.restart:
            self._restart_updates()
        if now >= self._next_report:
            self._next_report = now + _REPORT_INTERVAL_S
            self._metrics.update(self._training, self._counter, self._publisher.withheld)
            self._metrics.checkpoint_age.set(now - self._saved_at)
            self._metrics.erasures_lag.set(self._erasing.lag)
            if self._team.rank.number == 0:
                self._erasing.expire_checkpoints(now)
            self._health.note(self._formats.notes())
            self._health.report(done=self._records + self._sequences.position, lag=self._samples.lag())
        self._sender.poll()
        return turn.stop

    def _gather(self) -> None:
        """Take what has come, as far as there is room in the next step."""
        if self._counter is not None:
            self._counter.check()
        self._erasing.take()
        begun, due = bool(self._gathered), self._next_update
        if begun:
            due = min(due, self._gathering_since + self._gather_s)
        wait_s = min(max(0.0, due - time.monotonic()), self._poll_s)
        # One wait for all that comes until the step: a turn for each record takes CPU time.
        read = self._samples.read(wait_s, limit=self._settings.batch_size - len(self._gathered), fill=begun)
        if self._samples.missing:
            self._training.counts["records_missing"] = self._missed_before + self._samples.missing
        if not self._gathered:
            self._gathering_since = time.monotonic()
        self._gathered += [(example, each.message) for each in read if (example := self._take(each)) is not None]

    def _agree(self, wanted: Turn, failure: Exception | None = None) -> Agreed:
        steps = self._training.weigh([example for example, _ in self._gathered])
        agreed = self._team.agree(wanted, steps, self._training.counts["samples"], failure)
        self._publisher.samples = agreed.samples
        return agreed

    def _publish_bases(self) -> None:
        """Publish everything; of several ranks as of a version whose pieces are alike, so what is new goes before."""
        if self._team.rank.ranks > 1:
            self._publisher.publish_deltas()
        self._publisher.publish_bases()

    def _restart_updates(self) -> None:
        """Publish all parameters in a `model-updates` that was recreated: without, a worker that starts has none."""
        topic, publishes = self._topics.model_updates, "all parameters of every arm again"
        log(_logger, "topic_recreated", logging.WARNING, topic=topic, publishes=publishes)
        self._updates.begin([topic])
        self._publish_bases()

    def _learn(self, steps: Sequence[ArmStep]) -> None:
        """Take a step on what was gathered; samples whose step is not finite go to the dead letters."""
        if self._gathered:
            self._metrics.batch.set(len(self._gathered))
        lost = self._training.learn([example for example, _ in self._gathered], steps)
        for index, arms in sorted(lost.items()):
            self._refuse(self._gathered[index][1], f"loss or gradient is not finite: not learned by {', '.join(arms)}")
        self._gathered = []

    def _take(self, read: ReadSample) -> TrainingExample | None:
        """Return what is new in a sample; one that cannot be read goes to the dead letters."""
        self._records += 1
        try:
            if isinstance(read.sample, Exception):
                raise read.sample
            if read.void:
                self._training.leave_out(read.sample)
                return None
            return self._training.take(read.sample, read.sequence)
        except DECODE_ERRORS as error:
            self._refuse(read.message, str(error))
            return None

    def _refuse(self, message: Message, reason: str) -> None:
        record = to_record(message).with_headers(message)
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

    def _save(self) -> bool:
        """Write a checkpoint of everything up to the offsets read, unless the last one says the same."""
        # Refused samples are in the dead letters before the offsets pass them.
        self._sender.flush()
        training, positions = self._training, self._samples.positions
        reached = positions, self._sequences.position + (self._counter.position if self._counter else 0)
        if not any(self._team.share(b"" if self._saved == reached else b"more")):
            return False
        began = time.monotonic()
        for arm in training.arms.values():
            arm.flush_log()
        path = save_together(
            Path(self._settings.directory),
            Checkpoint(
                epoch=self._epoch,
                offsets={number: offset for (_, number), offset in positions.items()},
                arms=self._arm_states(),
                seen=training.seen.to_array(),
                counts=training.counts,
                origins=encode_origins(self._samples.logs, positions, self._samples.timestamps),
            ),
            self._team,
            digest=" ".join(arm.learner.dense_digest() for arm in training.arms.values()),
            keep=self._settings.checkpoints_kept,
            attach=self._sequences.save,
        )
        self._erasing.acknowledge()
        self._saved = reached
        self._saved_at = time.monotonic()
        self._metrics.checkpoint_seconds.set(self._saved_at - began)
        log(_logger, "checkpoint", path=path, **dict(sorted(training.counts.items())))
        self._log_progress()
        return True

    def _arm_states(self) -> dict[str, ArmState]:
        """Return the arms' states; of one that has diverged, the last good one, so that a start can go back to it."""
        states = {name: arm.save() for name, arm in self._training.arms.items()}
        bad = {name: why for name, state in states.items() if (why := diverged(state))}
        # Where an arm has diverged on one rank, all go back.
        told = self._team.share(msgspec.json.encode(bad))
        if bad := {name: why for said in told for name, why in msgspec.json.decode(said, type=dict[str, str]).items()}:
            directory = Path(self._settings.directory)
            found = checkpoint.load_newest(directory).checkpoint
            for name, why in bad.items():
                log(_logger, "arm_diverged", logging.ERROR, arm=name, reason=why, kept=directory)
                del states[name]
                if found is not None and name in found.arms:
                    kept, rank = found.arms[name], self._team.rank
                    states[name] = ArmState(state_of(kept.tensors, rank), {} if rank.number else kept.progress)
        if self._counter is not None:
            states[STATISTICS] = self._counter.save()
        return states

    def _log_progress(self) -> None:
        for name, arm in self._training.arms.items():
            window = arm.metrics.last_window()
            log(
                _logger,
                "progress",
                arm=name,
                samples=arm.metrics.total().samples,
                log_loss=window.log_loss,
                ne=window.ne,
                auc=window.auc,
                calibration=window.calibration,
                skipped=arm.learner.skipped,
            )

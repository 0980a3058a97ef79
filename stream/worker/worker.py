"""The worker: reads behaviours, impressions and clicks; answers, labels, and keeps the state.

What keeps the promises is the order of a commit: (a) the batch is folded in memory, (b) impressions are scored, (c)
scores, samples and outcomes are produced, (d) Kafka has acknowledged them, (e) one RocksDB write batch per partition
takes state and offsets, (f) the offsets go to Kafka. Answers leave as soon as they are scored; only (d) to (f) wait
for the commit interval.
"""

import logging
import threading
import time
from collections import Counter

from confluent_kafka import Consumer, KafkaException, TopicPartition

from model.device import prepare, resolve
from state.errors import LockedError
from state.partition import Partition
from stream.errors import ConsumerFatalError, WorkerError
from stream.kafka.clients import consumer
from stream.kafka.connection import Hearing
from stream.kafka.producer import Sender
from stream.kafka.topic_admin import record_limits, verify
from stream.runtime import gc_tuning as garbage
from stream.runtime.failpoints import failpoint
from stream.runtime.logs import log
from stream.runtime.metrics import Durations, Reading, Telemetry
from stream.runtime.metrics_server import Server
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.task import Task
from stream.worker.catchup import CatchUp
from stream.worker.consumer import FETCH, Intake
from stream.worker.metrics import worker_reading
from stream.worker.model_feed import ModelFeed
from stream.worker.producer import Output, wall_ms
from stream.worker.recovery import plan_recovery
from stream.worker.scoring import Arms
from stream.worker.snapshots import Snapshotter

_logger = logging.getLogger("samstream.worker")

_IDLE_POLL_S = 0.05
_TELL_S = 30.0
_READING_S = 1.0
_LOCK_WAIT_S = 30.0
_ANEW_S = 60.0


class Worker:
    """One member of the workers' consumer group.

    Args:
        settings: the configuration; every worker of a group has the same.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topics = Topics(settings.topics.prefix)
        self._inputs = (self._topics.behaviors, self._topics.impressions, self._topics.clicks)
        prepare(threads=settings.worker.threads)
        self._arms = Arms(settings, device=str(resolve(settings.worker.device)))
        self._feed = ModelFeed(settings, self._arms.scorers)
        self._sender: Sender
        self._output: Output
        self._telemetry = Telemetry("worker")
        self._snapshotter = Snapshotter(settings.state, self._telemetry.alive)
        self._catch_up = CatchUp()
        self._latency = Durations("answer_seconds", "from an impression's timestamp to its answer")
        self._batch = 0
        self._commit_s = 0.0
        self._processed = 0
        self._asker = consumer(settings.kafka, {"group.id": settings.worker.group})
        self._consumer: Consumer
        self._intake: Intake
        self._joined_anew = -_ANEW_S
        self._partitions = 0
        self._tasks: dict[int, Task] = {}
        self._asked: dict[int, float] = {}
        self._next_commit = 0.0
        self._next_tell = time.monotonic() + _TELL_S
        self._next_reading = 0.0
        self._failure: Exception | None = None
        self.counts: Counter[str] = Counter()
        """What happened in partitions that were given back, by name."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then commit, leave the group and return.

        Raises:
            StreamError: when the work cannot go on; nothing that was committed is lost.
        """
        server = Server(self._settings.worker.metrics, self._telemetry)
        self._partitions = verify(self._settings.kafka, self._topics)
        self._sender = Sender(self._settings.kafka, record_limits(self._settings.kafka, self._topics))
        micro_batch = self._settings.worker.micro_batch
        self._output = Output(self._sender, self._topics, self._arms, micro_batch=micro_batch, latency=self._latency)
        self._feed.start(stop, wait_s=self._settings.worker.model_wait_s)
        self._join()
        garbage.tame()
        log(_logger, "started", group=self._settings.worker.group, arms=",".join(self._arms.scorers))
        try:
            while not stop.is_set():
                try:
                    self.turn()
                except ConsumerFatalError as error:
                    self._join_anew(error)
            self._release(commit=True)
        finally:
            self._release(commit=False)
            self._consumer.close()
            self._asker.close()
            self._feed.stop()
            self._snapshotter.close()
            server.close()

    def _join(self) -> None:
        hearing = Hearing(self._settings.kafka)
        self._consumer = consumer(
            self._settings.kafka,
            {
                "group.id": self._settings.worker.group,
                "enable.partition.eof": "true",
                # Offsets are the state's: to jump elsewhere would fold other records, or none.
                "auto.offset.reset": "error",
            },
            hearing,
        )
        self._intake = Intake(self._consumer, self._inputs, hearing, self._asker)
        self._consumer.subscribe(
            list(self._inputs), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def _join_anew(self, error: ConsumerFatalError) -> None:
        """Go on with a new consumer, unless the last one has just met the same end.

        A static member that missed its session over a broker that was away can be fenced by itself: it has joined anew
        when an offset commit of its former life arrives. Two workers of one id fence each other for ever.
        """
        now = time.monotonic()
        if now - self._joined_anew < _ANEW_S:
            raise WorkerError(f"{error}. Does another worker have the same kafka.group.instance.id?") from None
        self._joined_anew = now
        log(_logger, "joining_anew", logging.WARNING, error=error)
        self._give_up()
        self._consumer.close()
        self._join()

    def turn(self) -> None:
        """Take what has arrived, answer it, and commit when it is time."""
        messages = self._intake.receive(min(_IDLE_POLL_S, self._settings.worker.commit_interval_s))
        if self._failure is not None:
            raise self._failure
        self._intake.hand_out(messages, self._tasks)
        self._batch = len(messages) or self._batch
        now = time.monotonic()
        requests = [
            (number, request)
            for number, task in self._tasks.items()
            for request in task.step(
                lambda topic, number=number: self._intake.at_end(topic, number),  # type: ignore[misc]
                now=now,
                wall_ms=wall_ms(),
                limit=FETCH,
                drained=len(messages) < FETCH,
            )
        ]
        self._feed.apply()
        self._output.answer(requests, self._tasks)
        self._pass_time(now)
        for number, task in self._tasks.items():
            self._output.publish(number, task)
        self._sender.poll()
        self._intake.limit_backlogs(self._tasks)
        overdue = now - self._next_commit
        # Kafka has mostly acknowledged everything by itself; only a commit that is late waits for it.
        if overdue >= 0 and (not self._sender.waiting or overdue >= self._settings.worker.commit_interval_s):
            self.commit()
        if self._catch_up.active:
            self._catch_up.note(self._left())
        if now >= self._next_reading:
            self._next_reading = now + _READING_S
            self._telemetry.publish(self._reading(now))
        if now >= self._next_tell:
            self._tell()

    def commit(self, *, wait: bool = False) -> None:
        """Steps (d) to (f) for every partition; `wait` waits for Kafka to have the offsets as well."""
        changed = {number: task for number, task in self._tasks.items() if task.changed}
        if changed:
            began = time.monotonic()
            self._sender.flush()
            failpoint("produced")
            for task in changed.values():
                task.commit()
                failpoint("written")
            self._commit_s = time.monotonic() - began
            self._consider_snapshots()
            offsets = [
                TopicPartition(topic, number, offset)
                for number, task in changed.items()
                for topic, offset in task.offsets.items()
                if topic in self._inputs
            ]
            self._commit_offsets(offsets, wait=wait)
            failpoint("committed")
        self._next_commit = time.monotonic() + self._settings.worker.commit_interval_s

    def _consider_snapshots(self) -> None:
        committed = {number: task.partition for number, task in self._tasks.items() if not task.changed}
        self._snapshotter.consider(committed, time.monotonic())

    def _pass_time(self, now: float) -> None:
        """Let event time run on where no record comes any more: at most one partition a turn, as Kafka is asked."""
        for number, task in self._tasks.items():
            if task.waits_for_event_time(now) and now - self._asked.get(number, 0.0) >= 1.0:
                self._asked[number] = now
                if self._intake.asked_at_end(number):
                    task.advance_idle_time(now)
                return

    def _tell(self) -> None:
        log(_logger, "counts", **dict(sorted(self._all_counts().items())), updates_refused=self._feed.refused.total())
        self._next_tell = time.monotonic() + _TELL_S

    def _all_counts(self) -> Counter[str]:
        return sum((task.counts for task in self._tasks.values()), self.counts + self._snapshotter.counts)

    def _reading(self, now: float) -> Reading:
        lag: Counter[str] = Counter(dict.fromkeys(self._inputs, 0))
        for number, task in self._tasks.items():
            lag.update(self._intake.lag(task, number))
        return worker_reading(
            done=self._processed + sum(task.processed for task in self._tasks.values()),
            counts=self._all_counts(),
            lag=lag,
            in_hand=sum(task.buffered for task in self._tasks.values()),
            open_requests=sum(task.open_requests for task in self._tasks.values()),
            unacknowledged=self._sender.waiting,
            partitions=len(self._tasks),
            commit_s=self._commit_s,
            refused=self._feed.refused,
            models={
                arm: (*scorer.version, now - self._feed.taken.get(arm, now))
                for arm, scorer in self._arms.scorers.items()
            },
            batch=self._batch,
            latency=self._latency,
            recovery=(*self._snapshotter.families(), *self._catch_up.families()),
        )

    def _left(self) -> int:
        return sum(self._intake.left(task, number) for number, task in self._tasks.items())

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # What a callback raises does not come through the client unharmed: it is kept, and raised by `turn`.
        try:
            self._take_up(consumer, partitions)
        except Exception as error:
            self._failure = error

    def _take_up(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = sorted({partition.partition for partition in partitions})
        starts = {}
        for number in numbers:
            partition = self._open(number)
            try:
                start = plan_recovery(consumer, self._settings, number, partition.offsets, self._telemetry.alive)
            except BaseException:
                partition.close()
                raise
            self._tasks[number] = Task(
                partition, self._topics, self._settings.worker, start, partitions=self._partitions
            )
            starts[number] = start.offsets
        self._intake.begin(starts)
        recovered = sum(task.recovered_answers for task in self._tasks.values())
        log(_logger, "assigned", partitions=",".join(map(str, numbers)), answers_recovered=recovered)
        self._catch_up.begin(numbers, self._left())

    def _open(self, number: int) -> Partition:
        state = self._settings.state
        path = state.path(number)
        if not path.exists():
            self._snapshotter.restore(number, path)
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                return Partition.open(path, length=state.length, slack=state.slack, cache_bytes=state.cache_mb << 20)
            except LockedError:
                # The worker that had it is still closing it, or is dying.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log(_logger, "revoked", partitions=",".join(sorted({str(known.partition) for known in partitions})))
        try:
            self._release(commit=True)
        except Exception as error:
            self._failure = error

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log(
            _logger,
            "lost",
            logging.WARNING,
            partitions=",".join(sorted({str(known.partition) for known in partitions})),
        )
        try:
            self._give_up()
        except Exception as error:
            self._failure = error

    def _give_up(self) -> None:
        # Whoever has the partitions next reads in `scores` what was answered: no answer may come after that.
        self._sender.flush()
        self._release(commit=False)

    def _release(self, *, commit: bool) -> None:
        if commit:
            self.commit(wait=True)
        for number, task in self._tasks.items():
            self.counts.update(task.counts)
            self._processed += task.processed
            task.close()
            self._asked.pop(number, None)
            self._snapshotter.forget(number)
        self._tasks.clear()
        self._catch_up.forget()
        self._intake.forget()

    def _commit_offsets(self, offsets: list[TopicPartition], *, wait: bool) -> None:
        try:
            if wait:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            # The state is durable; the group's offsets only say what was answered, and the next commit says it again.
            log(_logger, "offset_commit_failed", logging.WARNING, error=error.args[0].str())

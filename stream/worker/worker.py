"""The worker: reads behaviours, impressions and clicks; answers, labels, and keeps the state.

What keeps the promises is the order of a commit, named by the same letters in the code below and in
docs/architecture.md: (a) fold the batch in memory, (b) score impressions, (c) produce scores, samples and outcomes,
(d) wait until Kafka has acknowledged them, (e) write state and offsets in one RocksDB batch a partition, (f) commit the
offsets to Kafka. Answers leave as soon as they are scored; only (d) to (f) wait for the commit interval.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from model.device import configure_torch, resolve
from stream.errors import ConsumerFatalError
from stream.kafka.groups import topics_of_others
from stream.kafka.identity import IdentityClient
from stream.kafka.producer import ReliableProducer
from stream.kafka.shares_feed import SharesFeed
from stream.kafka.topic_admin import record_limits, verify
from stream.kafka.topic_watch import TopicWatch
from stream.registry.formats import open_formats
from stream.runtime.closing import Resources
from stream.runtime.failpoints import failpoint
from stream.runtime.gc_tuning import tune_gc
from stream.runtime.health import Health
from stream.runtime.logs import log
from stream.runtime.metrics import Totals
from stream.runtime.metrics_server import MetricsServer
from stream.schema.erasures import Erasures
from stream.schema.events import Spent
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.task import ScoringRequest, Task
from stream.worker.catchup import CatchUp
from stream.worker.consumer import FETCH, TaskConsumer
from stream.worker.erasing import Erasing
from stream.worker.event_time_warnings import EventTimeWarnings
from stream.worker.membership import Membership
from stream.worker.metrics import WorkerMetrics
from stream.worker.model_feed import ModelFeed
from stream.worker.producer import TaskProducer, wall_ms
from stream.worker.scoring import ArmScorers
from stream.worker.snapshots import Snapshotter
from stream.worker.standbys import Standbys
from stream.worker.state_owner import claim_directory
from stream.worker.unit_warnings import UnitWarnings

_logger = logging.getLogger("samstream.worker")

_IDLE_POLL_S = 0.05
_LOG_INTERVAL_S = 30.0
_REPORT_INTERVAL_S = 1.0
_ASK_INTERVAL_S = 1.0


def run_worker(settings: Settings, stop: threading.Event, begun: threading.Event) -> None:
    """Work as one member of the workers' consumer group until `stop` is set; then commit and leave the group.

    Args:
        settings: the configuration; every worker of a group has the same.
        stop: ends the work in order.
        begun: is set when Kafka and the disk have given all that the work begins with.

    Raises:
        StreamError: when the work cannot go on; nothing that was committed is lost.
        StateError: likewise, when the disk of the state is full or broken.
    """
    topics = Topics(settings.topics.prefix)
    configure_torch(threads=settings.worker.threads)
    registry = CollectorRegistry()
    metrics, health = WorkerMetrics(registry), Health("worker", registry)
    scorers = ArmScorers(settings, device=str(resolve(settings.worker.device)))
    with Resources() as resources:
        resources.add(MetricsServer(settings.worker.metrics, registry, health))
        partitions = verify(settings.kafka, topics, configured=settings.topics.partitions)
        claim_directory(settings.state, IdentityClient(settings.kafka).identify([topics.behaviors])[topics.behaviors])
        _tell_of_others(settings, topics)
        producer = TaskProducer(
            ReliableProducer(settings.kafka, record_limits(settings.kafka, topics)), topics, metrics
        )
        snapshotter = resources.add(Snapshotter(settings.state, topics, metrics))
        erasures = Erasures()
        erasing = Erasing(settings, topics, erasures, snapshotter, metrics)
        resources.add(erasing).begin()
        formats = open_formats(settings, topics, resources)
        standbys = resources.add(
            Standbys(settings, topics, snapshotter, metrics, partitions=partitions, erasures=erasures, formats=formats)
        )
        shares = None
        if settings.bandit.on:  # before any impression is answered
            shares = resources.add(SharesFeed(settings.kafka, topics.experiment_shares, scorers.shares.add))
            shares.start()
        feed = resources.add(ModelFeed(settings, scorers.update_targets, metrics))
        feed.start(stop, wait_s=settings.worker.model_wait_s)
        worker = Worker(
            settings,
            topics,
            scorers,
            feed,
            producer,
            snapshotter,
            standbys,
            erasing,
            metrics,
            health,
            partitions=partitions,
            formats=formats,
            shares=shares,
        )
        resources.add(worker)
        used = {topic.name for topic in topics} - {topics.experiment_metrics}
        resources.add(TopicWatch(settings.kafka, used, health.report_trouble))
        tune_gc()
        log(_logger, "started", group=settings.worker.group, arms=",".join(scorers.by_model))
        begun.set()
        worker.run(stop)


def _tell_of_others(settings: Settings, topics: Topics) -> None:
    """Say that workers of another prefix are in the same group: it works, but each rebalance stops both."""
    group, inputs = settings.worker.group, (topics.behaviors, topics.impressions, topics.clicks)
    if theirs := topics_of_others(settings.kafka, group, settings.topics.prefix, inputs):
        remedy = "give each topics.prefix a worker.group of its own"
        log(_logger, "group_shared", logging.WARNING, group=group, topics=",".join(theirs), remedy=remedy)


class Worker:
    """One member of the workers' consumer group: its turns and its commits. `run_worker` puts it together.

    Args:
        settings: the configuration.
        topics: the topic names.
        scorers: the serving models.
        feed: where their updates come from; started.
        producer: where answers and results go.
        snapshotter: stores and restores partitions.
        standbys: keeps copies of other workers' partitions.
        erasing: sees to it that users who are erased are gone.
        metrics: the worker's.
        health: the worker's.
        partitions: how many partitions the input topics have.
        formats: of the topics.
        shares: brings the scorers the shares that a bandit chooses; started. None without a bandit.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        scorers: ArmScorers,
        feed: ModelFeed,
        producer: TaskProducer,
        snapshotter: Snapshotter,
        standbys: Standbys,
        erasing: Erasing,
        metrics: WorkerMetrics,
        health: Health,
        *,
        partitions: int,
        formats: Formats = JSON_ONLY,
        shares: SharesFeed | None = None,
    ) -> None:
        self._formats = formats
        self._shares = shares
        self._erasing = erasing
        self._settings = settings.worker
        self._scorers = scorers
        self._feed = feed
        self._producer = producer
        self._snapshotter = snapshotter
        self._metrics = metrics
        self._totals = Totals()
        self._unit_warnings = UnitWarnings()
        window_s = settings.worker.attribution_window_s + settings.worker.allowed_lateness_s
        self._event_time_warnings = EventTimeWarnings(window_s)
        self._health = health
        self._catch_up = CatchUp(metrics)
        self._asked_at: dict[int, float] = {}
        self._next_commit = 0.0
        self._next_report = 0.0
        self._next_log = time.monotonic() + _LOG_INTERVAL_S
        self._membership = Membership(
            settings,
            topics,
            snapshotter,
            standbys,
            self._catch_up,
            partitions=partitions,
            before_revoke=lambda: self.commit(wait=True),
            # Whoever has the partitions next reads in `scores` what was answered: no answer may come after that.
            before_lost=producer.flush,
            erasures=erasing.erasures,
            formats=formats,
        )

    def run(self, stop: threading.Event) -> None:
        """Take turns until `stop` is set, then commit.

        Raises:
            StreamError: when the work cannot go on; nothing that was committed is lost.
        """
        while not stop.is_set():
            try:
                self.turn()
            except ConsumerFatalError as error:
                self._membership.rejoin(error)
            self._membership.rejoin_if_forgotten(time.monotonic())
        self.commit(wait=True)

    def close(self) -> None:
        """Close the states and leave the group; what was not committed is read again by whoever has it next."""
        self._membership.close()

    def turn(self) -> None:
        """Take what has arrived, answer it, and commit when it is time."""
        # Before records are taken: a new assignment reads on behind those that were dispatched.
        self._membership.begin_ready()
        consumer, tasks = self._membership.consumer, self._membership.tasks
        messages = consumer.receive(min(_IDLE_POLL_S, self._settings.commit_interval_s))
        self._membership.check()
        if self._shares is not None:
            self._shares.check()
        self._membership.check_logs(time.monotonic())
        consumer.dispatch(messages, tasks)
        if messages:
            self._metrics.batch.set(len(messages))
        now = time.monotonic()
        requests = self._fold(consumer, now, drained=consumer.drained)  # (a)
        self._feed.apply()
        # A backlog is answered piece by piece, so that the first answers do not wait for the last.
        for start in range(0, len(requests), self._settings.micro_batch):
            self._answer(requests[start : start + self._settings.micro_batch])  # (b), (c)
        self._advance_idle_time(consumer, now)
        for number, task in tasks.items():
            self._producer.send_results(number, *task.take_results())  # (c)
        self._producer.poll()
        consumer.limit_backlogs(tasks)
        overdue_s = now - self._next_commit
        # Kafka has mostly acknowledged everything by itself; only a commit that is late waits for it.
        if overdue_s >= 0 and (not self._producer.unacknowledged or overdue_s >= self._settings.commit_interval_s):
            self.commit()  # (d), (e), (f)
        self._report(consumer, now)

    def commit(self, *, wait: bool = False) -> None:
        """Make what was done durable, in every partition; `wait` waits for Kafka to have the offsets as well."""
        tasks = self._membership.tasks
        changed = {number: task for number, task in tasks.items() if task.changed}
        if changed:
            began = time.monotonic()
            self._producer.flush()  # (d)
            failpoint("produced")
            for task in changed.values():
                task.commit()  # (e)
                failpoint("written")
            self._metrics.commit_seconds.set(time.monotonic() - began)
            self._consider_snapshots()
        self._membership.consumer.commit(changed, tasks, wait=wait)  # (f)
        if changed:
            failpoint("committed")
        self._next_commit = time.monotonic() + self._settings.commit_interval_s

    def _fold(self, consumer: TaskConsumer, now: float, *, drained: bool) -> list[ScoringRequest]:
        """Let every task fold what it may; returns what must be scored."""
        return [
            request
            for number, task in self._membership.tasks.items()
            for request in task.step(
                lambda topic, number=number: consumer.at_end(topic, number),  # type: ignore[misc]
                now=now,
                wall_ms=wall_ms(),
                limit=FETCH,
                drained=drained,
            )
        ]

    def _answer(self, requests: Sequence[ScoringRequest]) -> None:
        """Score requests, hand each task its answers, and send them."""
        received_ms, began = wall_ms(), time.perf_counter()
        answers = self._scorers.answer([request.impression for request in requests], [r.example for r in requests])
        score_ms = (time.perf_counter() - began) * 1000
        for request, answer in zip(requests, answers, strict=True):
            task = self._membership.tasks[request.record.partition]
            task.take_answer(request, answer)
            wait_ms = max(0.0, received_ms - request.record.timestamp - request.state_ms)
            spent = Spent(wait_ms, request.state_ms, score_ms, answer.cpu_ms)
            self._producer.send_score(request, answer, spent, acknowledge=task.acknowledge_score)

    def _advance_idle_time(self, consumer: TaskConsumer, now: float) -> None:
        """Let event time run on where no record comes any more: at most one partition a turn, as Kafka is asked."""
        for number, task in self._membership.tasks.items():
            if task.waits_for_event_time(now) and now - self._asked_at.get(number, 0.0) >= _ASK_INTERVAL_S:
                self._asked_at[number] = now
                if consumer.asked_at_end(number):
                    task.advance_idle_time(now)
                return

    def _consider_snapshots(self) -> None:
        tasks = self._membership.tasks.items()
        committed = {n: task.partition for n, task in tasks if not task.changed and not task.partition.unpurged}
        self._snapshotter.consider(committed, time.monotonic())

    def _report(self, consumer: TaskConsumer, now: float) -> None:
        tasks = self._membership.tasks
        if self._catch_up.active:
            self._catch_up.note(consumer.left(tasks))
        if now >= self._next_report:
            self._next_report = now + _REPORT_INTERVAL_S
            self._update_metrics(consumer, list(tasks.values()))
            self._erasing.consider(tasks, now)
            if len(self._erasing.erasures):  # else snapshots follow commits
                self._consider_snapshots()
            self._unit_warnings.consider((task.units for task in tasks.values()), now)
            clocks = {number: known for number, task in tasks.items() if (known := task.clocks) is not None}
            self._event_time_warnings.consider(clocks, now)
        if now >= self._next_log:
            self._next_log = now + _LOG_INTERVAL_S
            log(_logger, "counts", **dict(sorted(self._counts().items())), updates_refused=self._feed.refused.total())

    def _update_metrics(self, consumer: TaskConsumer, tasks: Sequence[Task]) -> None:
        metrics, counts = self._metrics, self._counts()
        lag = consumer.lag(self._membership.tasks)
        for topic, records in lag.items():
            metrics.topic_lag.labels(topic).set(records)
        self._totals.set_each(metrics.events, counts)
        self._totals.set(metrics.dead_letters, counts["refused"])
        for arm, scorer in self._scorers.by_model.items():
            self._totals.set(metrics.answers_not_finite, self._scorers.fallback.counts[arm], arm)
            for length, answers in scorer.chosen_lengths.items():
                self._totals.set(metrics.chosen_lengths, answers, arm, str(length))
        self._totals.set_each(metrics.updates_of_unknown_arms, self._feed.unknown_arms)
        self._health.note([*self._scorers.fallback.notes(), *self._feed.notes(), *self._formats.notes()])
        metrics.buffered.set(sum(task.buffered for task in tasks))
        metrics.open_requests.set(sum(task.open_requests for task in tasks))
        metrics.unacknowledged.set(self._producer.unacknowledged)
        metrics.partitions.set(len(tasks))
        self._health.report(done=self._membership.processed, lag=sum(lag.values()))

    def _counts(self) -> Counter[str]:
        return self._membership.counts + self._snapshotter.counts

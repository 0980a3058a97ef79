"""The monitor as a Faust application: what it reads, the table it keeps, what it writes, and when."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from faust.types import TP

from stream.experiment.shares_in_force import Explorers
from stream.kafka.erasure_feed import ErasureFeed
from stream.monitor.aggregate import Aggregate
from stream.monitor.application import new_app
from stream.monitor.counting import WindowPlan
from stream.monitor.counts_table import CountsTable
from stream.monitor.guardrail_watch import GuardrailWatch
from stream.monitor.intake import Intake
from stream.monitor.latency import LatencyCounts
from stream.monitor.metrics import REPORT_INTERVAL_S, MonitorMetrics, report_health
from stream.monitor.outcome_counter import OutcomeCounter
from stream.monitor.partials import PartialsTopic
from stream.monitor.publisher import Publisher
from stream.monitor.reader import AggregateReader
from stream.monitor.recovery import CountsRecovery
from stream.monitor.sources import Sources
from stream.monitor.users import experiment_id
from stream.monitor.web.server import serve
from stream.runtime.health import Health
from stream.schema.erasures import Erasures
from stream.schema.events import DECODE_ERRORS, decode_score
from stream.schema.topics import Topics
from stream.settings import Settings

_CHECK_S = 1.0


class Monitor:
    """One monitor process.

    Outcomes are held back for `monitor.write_interval_s` and then counted together, since one value holds a whole
    window of a partition. They are acknowledged to Faust when the table's changelog and the partials are in Kafka.

    Args:
        settings: the configuration.
        sources: what it reads.

    Raises:
        SettingsError: for an address or connection properties that cannot be used.
    """

    def __init__(self, settings: Settings, sources: Sources) -> None:
        now_ms = 1000 * time.time()
        stage = settings.stage(now_ms)
        self.settings = settings.at(now_ms)
        """With the shares in force when it began: the verdict is on that stage of a ramp alone."""
        self.sources = sources
        self._topics = topics = Topics(settings.topics.prefix)
        self.plan = plan = WindowPlan.of(settings)
        self._experiment = experiment_id(settings, stage)
        self._latencies = LatencyCounts()
        self._intake = Intake(sources)
        self._aggregate = Aggregate(plan, self._experiment)
        self.app = app = new_app(settings, sources)
        self.erasures = Erasures()
        """Users who were erased: to be filled, before it runs and on."""
        explorers = Explorers(salt=settings.salt, share=settings.bandit.explore) if settings.bandit.on else None
        self._table = table = CountsTable(
            app, plan, self._experiment, sources.outcomes.partitions, self.erasures, stage, explorers
        )
        self.guardrails = GuardrailWatch(self.settings, stage, explorers, self.erasures)
        """What the guardrails say; to be started."""
        self._erased: dict[int, int] = {}
        self._partials = PartialsTopic(app, settings.monitor.group, plan.keep_ms)
        reader = AggregateReader(settings, self._partials.name, self._aggregate)
        self._counter = OutcomeCounter(app, table, self._partials, sources, self._intake)
        self._recovery = CountsRecovery(settings, app, sources, table, self._partials, reader, self._aggregate)
        quiet_s = (plan.window_ms + plan.close_ms) / 1000 + settings.worker.idle_timeout_s
        published, first = self._topic(topics.experiment_metrics), TP(topics.outcomes, 0)
        self._publisher = Publisher(app, published, reader, self._aggregate, first, quiet_s)
        app.agent(self._topic(topics.outcomes), name="outcomes")(self._counter.take)
        app.agent(self._topic(topics.scores), name="scores")(self._take_scores)
        app.task(self._count)
        app.task(self._publisher.run)
        app.task(self._watch_sources)
        app.on_partitions_revoked.connect(self._forget, weak=False)
        app.on_rebalance_complete.connect(self._recovery.resume, weak=False)
        serve(app, self)

    @property
    def shown(self) -> Aggregate:
        """What may be shown: nothing before it is known what the counts that were found are counts of."""
        return self._aggregate if self._recovery.known else Aggregate(self.plan, self._experiment)

    def claim(self) -> None:
        """See that the tables are this system's, and note that they are.

        Raises:
            MonitorError: when they are another system's, or of another number of partitions.
            KafkaClientError: when Kafka does not answer.
            OSError: when the directory cannot be used.
        """
        self._recovery.claim()

    def tell_own_topics(self, tell: Callable[[str, str], None]) -> None:
        """Have the names of the monitors' own topics told once these are there."""
        self._recovery.on_own_topics = tell

    async def report(self, metrics: MonitorMetrics, health: Health, feed: ErasureFeed) -> None:
        """Keep metrics and health up to date, and say which erasures are done, until the monitor stops."""
        while not self.app.should_stop:
            feed.check()
            feed.acknowledge(self._erased)
            buffered, counted = self._counter.buffered, self._counter.counted
            outcomes = self._topics.outcomes
            partitions = await report_health(self.app, outcomes, health, counted=counted, buffered=buffered)
            metrics.update(
                {
                    "outcomes": self._counter.counted,
                    "published": self._publisher.published,
                    "records_missing": self.sources.missing,
                },
                buffered=buffered,
                partitions=partitions,
                windows=len(self._aggregate.starts()),
                uncounted=self._aggregate.counters(),
                erasures_lag=feed.lag,
            )
            await self.app.sleep(REPORT_INTERVAL_S)

    def _topic(self, name: str) -> Any:
        return self.app.topic(name, key_serializer="raw", value_serializer="raw", value_type=bytes, key_type=bytes)

    async def _watch_sources(self) -> None:
        """End the monitor when a topic was recreated, or when records are missing that must not be."""
        while not self.app.should_stop:
            await self._intake.check()
            await self.app.sleep(_CHECK_S)

    async def _take_scores(self, stream: Any) -> None:
        async for event in stream.events():
            await self._intake.take(event)
            try:
                score = decode_score(event.value)
            except DECODE_ERRORS:
                continue
            start = self.plan.start(round(1000 * event.message.timestamp))
            self._latencies.add(event.message.partition, start, score)

    async def _count(self) -> None:
        while not self.app.should_stop:
            self._intake.raise_failure()
            await self._erase()
            await self._counter.count()
            await self._partials.send(*self._latencies.take_changes())
            await self.app.sleep(self.settings.monitor.write_interval_s)

    async def _erase(self) -> None:
        """Remove the rows of erased users, once the tables of an assignment are there."""
        for place in sorted(self.app.consumer.assignment()) if self.app.starts is not None else ():
            if place.topic == self._topics.outcomes and self._table.erase(place.partition):
                await self._table.acknowledged()
                await asyncio.to_thread(self._table.purge, place.partition)
                self._erased[place.partition] = self._table.erased_to(place.partition)

    async def _forget(self, *_: Any, **__: Any) -> None:
        """Drop what is held back of partitions that are no longer ours."""
        self._counter.forget()
        self._table.forget_erasures()
        self.app.starts = None

"""The monitor as a Faust application: what it reads, the table it keeps, what it writes, and when."""

import asyncio
import time
from collections import Counter, defaultdict
from typing import Any

from faust.types import TP, EventT
from msgspec.structs import replace

from stream.errors import StreamError
from stream.kafka.identity import identify_if_there
from stream.monitor import records
from stream.monitor.aggregate import Aggregate
from stream.monitor.application import AcknowledgedTable, at_partition, new_app
from stream.monitor.counting import PartitionProgress, WindowCounts, WindowPlan, fold
from stream.monitor.directory import claim_directory
from stream.monitor.latency import LatencyCounts
from stream.monitor.metrics import REPORT_INTERVAL_S, MonitorMetrics, report_health
from stream.monitor.reader import AggregateReader
from stream.monitor.records import MomentsPartial, Partial, ProgressPartial, WindowPartial
from stream.monitor.sources import Sources
from stream.monitor.users import UserCounter, UserRow, experiment_id
from stream.monitor.web.server import serve
from stream.runtime.health import Health
from stream.schema.events import DECODE_ERRORS, Outcome, decode_outcome, decode_score
from stream.schema.topics import Topics
from stream.settings import Settings

# Keys and tags keep the words of older versions: they are on disk and in Kafka.
_PROGRESS, _MOMENTS = b"head", b"sums"
_BATCH = 2000
"""Outcomes of a partition that are counted at once at most; more only where more were read before."""
_MOST_AGAIN = 10 * _BATCH
"""What was counted before is held until all of it is there, but not more than this, for the memory it takes."""
_PUBLISH_S = 1.0
_CHECK_S = 1.0
_ROCKS = {"block_cache_size": 8 << 20, "write_buffer_size": 4 << 20, "max_open_files": 64, "driver": "rocksdict"}


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
        self.settings = settings
        self.sources = sources
        self._topics = Topics(settings.topics.prefix)
        self.plan = WindowPlan.of(settings)
        self._experiment = experiment_id(settings)
        self._held: dict[int, list[EventT[Any]]] = defaultdict(list)
        self._behind: set[int] = set()
        self._failure: Exception | None = None
        self._known = False
        self._latencies = LatencyCounts()
        self.read_again = 0
        self.counts: Counter[str] = Counter(outcomes=0, published=0, records_missing=0)
        """Outcomes counted, records published, and records that Kafka had removed unread, by this process."""
        self.aggregate = Aggregate(self.plan, self._experiment)
        self.app = app = new_app(settings, sources)
        self._table = AcknowledgedTable(
            app,
            name=f"counts-{self.plan.window_ms}",
            partitions=sources.outcomes.partitions,
            key_type=bytes,
            value_type=bytes,
            options=dict(_ROCKS),
        )
        self.changelog: str = self._table.changelog_topic_name
        """The topic of the table's changes."""
        app.tables.add(self._table)
        self._outcomes = self._source(self._topics.outcomes)
        self._partials = app.topic(
            f"{settings.monitor.group}-fragments",
            partitions=1,
            replicas=app.conf.topic_replication_factor,
            internal=True,
            compacting=True,
            deleting=True,
            retention=2 * self.plan.keep_ms / 1000 + 3600,
            key_serializer="raw",
            value_serializer="raw",
        )
        self._reader = AggregateReader(settings, self._partials.get_topic_name(), self.aggregate)
        app.agent(self._outcomes, name="outcomes")(self._take_outcomes)
        app.agent(self._source(self._topics.scores), name="scores")(self._take_scores)
        app.task(self._count)
        app.task(self._publish)
        app.task(self._watch_sources)
        app.on_partitions_revoked.connect(self._forget, weak=False)
        app.on_rebalance_complete.connect(self._resume, weak=False)
        serve(app, self)

    async def report(self, metrics: MonitorMetrics, health: Health) -> None:
        """Keep metrics and health up to date until the monitor stops."""
        while not self.app.should_stop:
            buffered, counted = sum(map(len, self._held.values())), self.counts["outcomes"]
            outcomes = self._topics.outcomes
            partitions = await report_health(self.app, outcomes, health, counted=counted, buffered=buffered)
            metrics.update(
                self.counts,
                buffered=buffered,
                partitions=partitions,
                windows=len(self.aggregate.starts()),
                uncounted=self.aggregate.counters(),
            )
            await self.app.sleep(REPORT_INTERVAL_S)

    def _source(self, name: str) -> Any:
        return self.app.topic(name, key_serializer="raw", value_serializer="raw", value_type=bytes, key_type=bytes)

    def claim(self) -> None:
        """See that the tables are this system's, and note that they are.

        Raises:
            MonitorError: when they are another system's, or of another number of partitions.
            KafkaClientError: when Kafka does not answer.
            OSError: when the directory cannot be used.
        """
        outcomes = self.sources.outcomes
        changelog = identify_if_there(self.settings.kafka, self.changelog)
        if changelog is not None and changelog.partitions != outcomes.partitions:
            raise self.sources.partitions_changed(changelog.partitions)
        changelog_id = None if changelog is None else changelog.topic_id
        claim_directory(self.settings, outcomes, self.changelog, changelog_id)

    @property
    def shown(self) -> Aggregate:
        """What may be shown: nothing before it is known what the counts that were found are counts of."""
        return self.aggregate if self._known else Aggregate(self.plan, self._experiment)

    async def _resume(self, *_: Any, **__: Any) -> None:
        """Find out where to read on in the partitions that a rebalance has brought, and what their counts are worth.

        Faust calls this when the tables are recovered, and reads after it. What it raises ends the monitor.
        """
        if not self._known:
            await self._partials.maybe_declare()
            await self._reader.open_partials()
            await asyncio.to_thread(self.claim)  # the changelog is there now
        starts: dict[TP, int] = {}
        for place in sorted(self.app.consumer.assignment()):
            topic, number = place.topic, place.partition
            if topic == self._topics.outcomes:
                starts[place] = await self._resume_counts(number)
            elif topic == self._topics.scores:
                starts[place] = (await asyncio.to_thread(self.sources.resume, topic, number)).offset
        self._known = True
        self.app.starts = starts

    async def _resume_counts(self, number: int) -> int:
        """Go on with the counts of a partition, or begin them anew; returns the offset to read from."""
        with at_partition(number):
            progress, sums = self._table.get(_PROGRESS), self._table.get(_MOMENTS)
        counted = records.decode_progress(progress) if progress else None
        # Another table, of windows of another length, may have counted since.
        valid = counted if counted is not None and counted.begun >= self.aggregate.begun(number) else None
        start = await asyncio.to_thread(self.sources.resume, self._topics.outcomes, number, valid)
        partials: list[Partial] = []
        if start.anew:
            begun = max(round(time.time()), self.aggregate.begun(number) + 1, counted.begun + 1 if counted else 0)
            with at_partition(number):
                for window in counted.windows if counted else ():
                    self._table.pop(_key(window), None)
                origin, anchor = self.sources.anchor(self._topics.outcomes, number)
                fresh = PartitionProgress(windows=[], begun=begun, origin=origin, anchor=anchor)
                self._table[_PROGRESS] = records.encode_packed(fresh)
            partials.append(ProgressPartial(number, fresh))
        elif counted is not None:
            # Kafka removes partials that are old, also of a partition in which nothing has happened since.
            partials += [MomentsPartial(number, records.decode_moments(sums))] if sums else []
            partials.append(ProgressPartial(number, replace(counted, windows=[])))
        for partial in partials:
            self.aggregate.add(partial)
        await self._written(partials)
        return start.offset

    async def _watch_sources(self) -> None:
        """End the monitor when a topic was made anew, or when records are missing that must not be."""
        while not self.app.should_stop:
            self._raise_failure()
            await asyncio.to_thread(self.sources.check, time.monotonic())
            self.counts["records_missing"] = self.sources.missing
            await self.app.sleep(_CHECK_S)

    def _raise_failure(self) -> None:
        """Raise what went wrong in an agent, which Faust would only log."""
        if self._failure is not None:
            raise self._failure

    async def _take(self, event: EventT[Any]) -> bool:
        """Take note of an event; returns False when it must not be used, since others before it are missing."""
        message = event.message
        where = message.topic, message.partition
        expected = self.sources.take(*where, message.offset, round(1000 * message.timestamp))
        if message.offset > expected and self._failure is None:
            try:
                await asyncio.to_thread(self.sources.find_gap, *where, expected, message.offset)
            except StreamError as error:
                self._failure = error
        return self._failure is None

    async def _take_outcomes(self, stream: Any) -> None:
        async for event in stream.noack().events():
            if not await self._take(event):
                continue
            held = self._held[event.message.partition]
            held.append(event)
            while len(held) >= (_MOST_AGAIN if event.message.partition in self._behind else _BATCH):
                # The counting below empties it.
                await self.app.sleep(0.01)
                held = self._held[event.message.partition]

    async def _take_scores(self, stream: Any) -> None:
        async for event in stream.events():
            await self._take(event)
            try:
                score = decode_score(event.value)
            except DECODE_ERRORS:
                continue
            start = self.plan.start(round(1000 * event.message.timestamp))
            self._latencies.add(event.message.partition, start, score)

    async def _count(self) -> None:
        while not self.app.should_stop:
            self._raise_failure()
            for partition in list(self._held):
                if (events := self._held[partition]) and not self._is_behind(partition, events):
                    del self._held[partition]
                    await self._count_partition(partition, events)
            await self._send(*self._latencies.take_changes())
            await self.app.sleep(self.settings.monitor.write_interval_s)

    def _is_behind(self, partition: int, events: list[EventT[Any]]) -> bool:
        """Say whether events do not go as far as what was counted before, so that the rest must be waited for."""
        with at_partition(partition):
            progress, sums = self._table.get(_PROGRESS), self._table.get(_MOMENTS)
        moments = records.decode_moments(sums) if sums else None
        begun = records.decode_progress(progress).begun if progress else 0
        known = moments.offset if moments is not None and moments.begun == begun else -1
        behind = events[-1].message.offset < known and len(events) < _MOST_AGAIN
        (self._behind.add if behind else self._behind.discard)(partition)
        return behind

    async def _count_partition(self, partition: int, events: list[EventT[Any]]) -> None:
        """Count events of a partition, have it in Kafka, and acknowledge them."""
        with at_partition(partition):
            known, sums = self._table.get(_PROGRESS), self._table.get(_MOMENTS)
            progress = records.decode_progress(known) if known else PartitionProgress(windows=[])
            moments = records.decode_moments(sums) if sums else None
            changes = fold(
                self.plan,
                progress,
                self._load,
                UserCounter(self._experiment, moments, self._load_user, begun=progress.begun),
                ((event.message.offset, _decoded(event)) for event in events),
            )
            progress.origin, progress.anchor = self.sources.anchor(self._topics.outcomes, partition)
            partials: list[Partial] = [MomentsPartial(partition, changes.sums)]
            self._table[_MOMENTS] = records.encode_packed(changes.sums)
            for user, row in changes.users.items():
                self._table[_user_key(user)] = records.encode_packed(row)
            for window in changes.written:
                self._table[_key(window.start)] = records.encode_packed(window)
                partials.append(WindowPartial(self.plan.window_ms, partition, replace(window, ids=b"")))
            for start in changes.removed:
                self._table.pop(_key(start), None)
            self._table[_PROGRESS] = records.encode_packed(changes.progress)
        self.read_again += changes.read_again
        self.counts["outcomes"] += len(events)
        partials.append(ProgressPartial(partition, replace(changes.progress, windows=[])))
        # A monitor that stops no longer writes: what is not in Kafka by then is not waited for, and is counted again.
        if not (await self.app.wait(self._written(partials))).stopped:
            for event in events:
                event.ack()

    async def _written(self, partials: list[Partial]) -> None:
        await self._send(*partials)
        await self._table.acknowledged()

    def _load(self, start: int) -> WindowCounts | None:
        value = self._table.get(_key(start))
        return records.decode_window(value) if value else None

    def _load_user(self, user: str) -> UserRow | None:
        value = self._table.get(_user_key(user))
        return records.decode_user(value) if value else None

    async def _send(self, *partials: Partial) -> None:
        """Write partials, and wait until Kafka has them."""
        sent = [
            await self._partials.send(key=records.key_of(partial), value=records.encode_packed(partial), partition=0)
            for partial in partials
        ]
        await asyncio.gather(*sent)

    async def _publish(self) -> None:
        """Read what all monitors have counted; the one that has partition 0 publishes it."""
        await self._reader.open()
        metrics = self._source(self._topics.experiment_metrics)
        quiet_s = (self.plan.window_ms + self.plan.close_ms) / 1000 + self.settings.worker.idle_timeout_s
        last = 0.0
        try:
            while not self.app.should_stop:
                await self._reader.read(quiet_s)
                now = asyncio.get_running_loop().time()
                first = TP(self._topics.outcomes, 0)
                if self._reader.caught_up and now - last >= _PUBLISH_S and first in self.app.consumer.assignment():
                    last = now
                    sent = [
                        await metrics.send(key=due.arm.encode(), value=records.encode_json(due), partition=0)
                        for due in self.aggregate.due_records()
                    ]
                    await asyncio.gather(*sent)
                    self.counts["published"] += len(sent)
        finally:
            self._reader.close()

    async def _forget(self, *_: Any, **__: Any) -> None:
        """Drop what is held back of partitions that are no longer ours: nothing of it is acknowledged."""
        self._held.clear()
        self.app.starts = None


def _decoded(event: EventT[Any]) -> Outcome | None:
    try:
        return decode_outcome(event.value)
    except DECODE_ERRORS:
        return None


def _key(start: int) -> bytes:
    return b"window/%d" % start


def _user_key(user: str) -> bytes:
    return b"user/" + user.encode()

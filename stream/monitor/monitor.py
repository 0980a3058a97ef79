"""The monitor as a Faust application: what it reads, the table it keeps, what it writes, and when."""

import asyncio
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faust
from faust.streams import _current_event
from faust.types import TP, EventT, FutureMessage
from msgspec.structs import replace

from stream.errors import SettingsError
from stream.monitor import records
from stream.monitor.aggregate import Aggregate
from stream.monitor.counting import PartitionProgress, WindowCounts, WindowPlan, fold
from stream.monitor.credentials import faust_connection
from stream.monitor.latency import LatencyCounts
from stream.monitor.metrics import REPORT_INTERVAL_S, MonitorMetrics, report_health
from stream.monitor.reader import AggregateReader
from stream.monitor.records import MomentsPartial, Partial, ProgressPartial, WindowPartial
from stream.monitor.users import UserCounter, UserRow, experiment_id
from stream.monitor.web.server import Web, serve
from stream.runtime.health import Health
from stream.schema.events import DECODE_ERRORS, Outcome, decode_outcome, decode_score
from stream.schema.topics import Topics
from stream.settings import Settings

# Keys and tags keep the words of older versions: they are on disk and in Kafka.
_PROGRESS, _MOMENTS = b"head", b"sums"
_BATCH = 2000
"""Outcomes of a partition that are counted at once at most; more only where more were read before."""
_MOST_AGAIN = 10 * _BATCH
"""What was counted before is held until all of it is there, but not more than this: the topic may be another one."""
_PUBLISH_S = 1.0
_ROCKS = {"block_cache_size": 8 << 20, "write_buffer_size": 4 << 20, "max_open_files": 64, "driver": "rocksdict"}


class AcknowledgedTable(faust.Table[bytes, bytes]):
    """A table that can be asked to wait until its changelog is in Kafka; Faust itself commits offsets without."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unacknowledged: list[FutureMessage] = []

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Send a change, and remember that it is under way."""
        sent = super().send_changelog(*args, **kwargs)
        self._unacknowledged.append(sent)
        return sent

    async def acknowledged(self) -> None:
        """Wait until Kafka has every change."""
        sent, self._unacknowledged = self._unacknowledged, []
        await asyncio.gather(*sent)


class Monitor:
    """One monitor process.

    Outcomes are held back for `monitor.write_interval_s` and then counted together, since one value holds a whole
    window of a partition. They are acknowledged to Faust when the table's changelog and the partials are in Kafka.

    Args:
        settings: the configuration.

    Raises:
        SettingsError: for an address or connection properties that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._topics = Topics(settings.topics.prefix)
        self.plan = WindowPlan.of(settings)
        self._experiment = experiment_id(settings)
        self._held: dict[int, list[EventT[Any]]] = defaultdict(list)
        self._behind: set[int] = set()
        self._latencies = LatencyCounts()
        self.read_again = 0
        self.counts: Counter[str] = Counter(outcomes=0, published=0)
        """Outcomes counted and records published, by this process."""
        self.aggregate = Aggregate(self.plan, self._experiment)
        self.app = app = _app(settings)
        self._table = AcknowledgedTable(
            app,
            name=f"counts-{self.plan.window_ms}",
            partitions=settings.topics.partitions,
            key_type=bytes,
            value_type=bytes,
            options=dict(_ROCKS),
        )
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
        self._reader = AggregateReader(settings.kafka, self._topics, self._partials.get_topic_name(), self.aggregate)
        app.agent(self._outcomes, name="outcomes")(self._take_outcomes)
        app.agent(self._source(self._topics.scores), name="scores")(self._take_scores)
        app.task(self._count)
        app.task(self._publish)
        app.on_partitions_revoked.connect(self._forget, weak=False)
        serve(app, self)

    async def report(self, metrics: MonitorMetrics, health: Health) -> None:
        """Keep metrics and health up to date until the monitor stops."""
        while not self.app.should_stop:
            in_hand, counted = sum(map(len, self._held.values())), self.counts["outcomes"]
            outcomes = self._topics.outcomes
            partitions = await report_health(self.app, outcomes, health, counted=counted, in_hand=in_hand)
            metrics.update(
                self.counts,
                in_hand=in_hand,
                partitions=partitions,
                windows=len(self.aggregate.starts()),
                uncounted=self.aggregate.counters(),
            )
            await self.app.sleep(REPORT_INTERVAL_S)

    def _source(self, name: str) -> Any:
        return self.app.topic(name, key_serializer="raw", value_serializer="raw", value_type=bytes, key_type=bytes)

    async def _take_outcomes(self, stream: Any) -> None:
        async for event in stream.noack().events():
            held = self._held[event.message.partition]
            held.append(event)
            while len(held) >= (_MOST_AGAIN if event.message.partition in self._behind else _BATCH):
                # The counting below empties it.
                await self.app.sleep(0.01)
                held = self._held[event.message.partition]

    async def _take_scores(self, stream: Any) -> None:
        async for event in stream.events():
            try:
                score = decode_score(event.value)
            except DECODE_ERRORS:
                continue
            start = self.plan.start(round(1000 * event.message.timestamp))
            self._latencies.add(event.message.partition, start, score)

    async def _count(self) -> None:
        while not self.app.should_stop:
            for partition in list(self._held):
                if (events := self._held[partition]) and not self._is_behind(partition, events):
                    del self._held[partition]
                    await self._count_partition(partition, events)
            await self._send(*self._latencies.take_changes())
            await self.app.sleep(self.settings.monitor.write_interval_s)

    def _is_behind(self, partition: int, events: list[EventT[Any]]) -> bool:
        """Say whether events do not go as far as what was counted before, so that the rest must be waited for."""
        with _at_event(events[-1]):
            sums = self._table.get(_MOMENTS)
        known = records.decode_moments(sums).offset if sums else -1
        behind = events[-1].message.offset < known and len(events) < _MOST_AGAIN
        (self._behind.add if behind else self._behind.discard)(partition)
        return behind

    async def _count_partition(self, partition: int, events: list[EventT[Any]]) -> None:
        """Count events of a partition, have it in Kafka, and acknowledge them."""
        with _at_event(events[-1]):
            progress, sums = self._table.get(_PROGRESS), self._table.get(_MOMENTS)
            changes = fold(
                self.plan,
                records.decode_progress(progress) if progress else PartitionProgress(windows=[]),
                self._load,
                UserCounter(self._experiment, records.decode_moments(sums) if sums else None, self._load_user),
                ((event.message.offset, _decoded(event)) for event in events),
            )
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
        await self._partials.maybe_declare()
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


def _app(settings: Settings) -> faust.App:
    monitor = settings.monitor
    host, _, port = monitor.web.rpartition(":")
    if monitor.web and not (host and port.isdecimal()):
        raise SettingsError(f"monitor.web {monitor.web!r}: write it as HOST:PORT, or leave it empty to serve nothing")
    directory = Path(monitor.directory)
    directory.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        monitor.group,
        **faust_connection(settings.kafka),
        datadir=directory,
        store="rocksdb://?driver=rocksdict",
        topic_partitions=settings.topics.partitions,
        topic_replication_factor=settings.topics.replication,
        topic_allow_declare=True,
        topic_disable_leader=True,
        # What is held back when it stops is counted by whoever has the partition next.
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=monitor.session_timeout_s,
        broker_heartbeat_interval=monitor.session_timeout_s / 4,
        broker_commit_interval=monitor.write_interval_s,
        producer_compression_type="lz4",
        web_enabled=bool(monitor.web),
        web_bind=host or None,
        web_host=host or None,
        web_port=int(port or 6066),
        loghandlers=[],
    )
    app.web = Web(app)
    return app


@contextmanager
def _at_event(event: EventT[Any]) -> Iterator[None]:
    """Let Faust's tables write to the partition of an event, as if an agent were processing it."""
    token = _current_event.set(weakref.ref(event))
    try:
        yield
    finally:
        _current_event.reset(token)


def _decoded(event: EventT[Any]) -> Outcome | None:
    try:
        return decode_outcome(event.value)
    except DECODE_ERRORS:
        return None


def _key(start: int) -> bytes:
    return b"window/%d" % start


def _user_key(user: str) -> bytes:
    return b"user/" + user.encode()

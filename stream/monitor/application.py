"""Faust as the monitor needs it: it reads where it is told to, and a commit says what its offset is an offset of."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.stores.rocksdb import RocksDBOptions
from faust.streams import _current_event, current_event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, FutureMessage

from state.rocks import drop_deleted
from stream.errors import SettingsError
from stream.monitor.credentials import faust_connection
from stream.monitor.sources import Sources
from stream.monitor.web.server import Web
from stream.runtime.addresses import host_and_port
from stream.settings import Settings

_PORT = 6066
"""Faust's own, where the page is not served."""


class MonitorApp(faust.App):
    """A Faust application that reads where it is told to, and commits offsets with what they are offsets of."""

    sources: Sources
    starts: Mapping[TP, int] | None = None
    """Where to read on after a rebalance; None while one is under way."""
    on_stopping: Callable[[], None] = staticmethod(lambda: None)
    """Called when it begins to stop."""

    async def on_stop(self) -> None:
        """Stop, and say so before."""
        self.on_stopping()
        await super().on_stop()

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    app: MonitorApp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._calls: set[asyncio.Future[Any]] = set()
        self._over = False

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Run a function in the thread.

        Faust's own waits for ever for a call that came while the thread ended: a monitor that had crashed hung.

        Raises:
            ConsumerStoppedError: when the thread has ended.
        """
        if self._over:
            raise ConsumerStoppedError
        call = self.parent_loop.create_future()
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        await self.method_queue.call(call, fun, *args, **kwargs)
        return await call

    async def on_thread_stop(self) -> None:
        """End the client, and the calls that came too late."""
        try:
            await super().on_thread_stop()
        finally:
            self.parent_loop.call_soon_threadsafe(self._end_calls)

    def _end_calls(self) -> None:
        self._over = True
        for call in list(self._calls):
            if not call.done():
                call.set_exception(ConsumerStoppedError())

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        sources, commit = self.app.sources, consumer.commit

        async def commit_with_origins(offsets: Mapping[Any, OffsetAndMetadata]) -> None:
            await commit(
                {
                    # librdkafka copies as many bytes as were committed and reads a C string: without the NUL, which it
                    # writes itself, what lies behind them in memory is read as well (librdkafka#4649).
                    where: OffsetAndMetadata(committed.offset, sources.origin(where.topic, where.partition) + "\0")
                    for where, committed in offsets.items()
                }
            )

        consumer.commit = commit_with_origins
        return consumer

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Check that a partition is read, once it is known where from.

        Faust's own asks for the position while Kafka is still asked for it (after records were removed, or a
        rebalance), where aiokafka has none and raises.
        """
        assignment = self._ensure_consumer()._fetcher._subscriptions.subscription.assignment
        state = assignment.state_value(TopicPartition(tp.topic, tp.partition)) if assignment else None
        if state is None or state.has_valid_position:
            super().verify_event_path(now, tp)


class _Consumer(driver.Consumer):
    app: MonitorApp

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek to where the application says, once it has said so after a rebalance."""
        if self.app.starts is None:
            committed: Mapping[TP, int] = await super().seek_to_committed()
            return committed
        starts = {place: offset for place, offset in self.app.starts.items() if place in self.assignment()}
        await self.seek_wait(starts)
        return starts


class _Transport(driver.Transport):
    Consumer = _Consumer


class AcknowledgedTable(faust.Table[bytes, bytes]):
    """A table that can be asked to wait until its changelog is in Kafka; Faust itself commits offsets without."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unacknowledged: list[FutureMessage] = []

    def purge(self, partition: int) -> None:
        """Take the bytes of removed values out of a partition's files."""
        data: Any = self.data
        drop_deleted(data._db_for_partition(partition), [(None, None)])

    def _new_store(self) -> Any:
        store: Any = super()._new_store()
        store.rocksdb_options.__class__ = _TableOptions
        return store

    def partition_for_key(self, _key: Any) -> int:
        """Return the partition of the event at hand.

        Faust compares the changelog's partition count as well, which for a moment is 0 of a topic just made; it was
        compared when the tables were claimed.
        """
        event = current_event()
        if event is None:
            raise TypeError("the table is written outside of at_partition")
        partition: int = event.message.partition
        return partition

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        """Send a change, and remember that it is under way."""
        sent = super().send_changelog(*args, **kwargs)
        self._unacknowledged.append(sent)
        return sent

    async def acknowledged(self) -> None:
        """Wait until Kafka has every change."""
        sent, self._unacknowledged = self._unacknowledged, []
        await asyncio.gather(*sent)


class _TableOptions(RocksDBOptions):
    def as_options(self) -> Any:
        options = super().as_options()
        # As of the worker's states: a manifest names the first and last key of each file that ever was.
        options.set_max_manifest_file_size(1)
        return options


class _Event:
    """As much of an event as Faust's tables ask for."""

    def __init__(self, partition: int) -> None:
        self.message = SimpleNamespace(partition=partition)


@contextmanager
def at_partition(number: int) -> Iterator[None]:
    """Let Faust's tables read and write a partition, as if an agent were processing an event of it."""
    event = _Event(number)
    token = _current_event.set(weakref.ref(event))  # type: ignore[arg-type]
    try:
        yield
    finally:
        _current_event.reset(token)


def web_address(web: str) -> tuple[str, int]:
    """Return host and port of the page; an empty host for none.

    Raises:
        SettingsError: when it is no HOST:PORT.
    """
    if not web:
        return "", _PORT
    try:
        host, port = host_and_port(web)
    except ValueError:
        host, port = "", 0
    if not host:
        raise SettingsError(f"monitor.web {web!r}: write it as HOST:PORT, or leave it empty to serve nothing")
    return host, port


def new_app(settings: Settings, sources: Sources) -> MonitorApp:
    """Return the application, without topics and agents.

    Raises:
        SettingsError: for an address or connection properties that cannot be used.
    """
    monitor = settings.monitor
    host, port = web_address(monitor.web)
    directory = Path(monitor.directory)
    directory.mkdir(parents=True, exist_ok=True)
    app = MonitorApp(
        monitor.group,
        **faust_connection(settings.kafka),
        datadir=directory,
        store="rocksdb://?driver=rocksdict",
        topic_partitions=sources.outcomes.partitions,
        topic_replication_factor=settings.topics.replication,
        topic_allow_declare=True,
        topic_disable_leader=True,
        # What is held back when it stops is counted by whoever has the partition next.
        stream_wait_empty=False,
        # Where reading begins is said after each rebalance; where Kafka has removed records, the gap is noticed.
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=monitor.session_timeout_s,
        broker_heartbeat_interval=monitor.session_timeout_s / 4,
        broker_commit_interval=monitor.write_interval_s,
        producer_compression_type="lz4",
        web_enabled=bool(monitor.web),
        web_bind=host or None,
        web_host=host or None,
        web_port=port,
        loghandlers=[],
    )
    app.sources = sources
    app.web = Web(app)
    return app

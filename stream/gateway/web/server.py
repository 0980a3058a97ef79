"""The job `samstream gateway`: puts the parts together, serves them, and ends in order."""

import asyncio
import logging
import socket
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry

from stream.errors import SettingsError
from stream.gateway.checker import EventChecker
from stream.gateway.gateway import Gateway
from stream.gateway.keys import ApiKeys, is_loopback, read_keys
from stream.gateway.metrics import GatewayMetrics
from stream.gateway.peers import Peers
from stream.gateway.requests import Requests
from stream.gateway.score_feed import ScoreFeed
from stream.gateway.web.app import Parts, build
from stream.gateway.web.listening import Server, configuration, listen, measured
from stream.gateway.writer import RecordWriter
from stream.kafka.producer import ReliableProducer
from stream.kafka.topic_admin import verify
from stream.kafka.topic_watch import TopicWatch
from stream.runtime.closing import Resources
from stream.runtime.gc_tuning import tune_gc
from stream.runtime.health import Health
from stream.runtime.logs import log
from stream.runtime.metrics_server import MetricsServer
from stream.schema.events import Impression
from stream.schema.topics import Topics
from stream.settings import Settings

_logger = logging.getLogger("samstream.gateway")

_TICK_S = 0.1
_ACK_S = 5.0
_FLUSH_S = 10.0
_DRAIN_SLACK_S = 2.0


@dataclass(frozen=True, slots=True)
class _Job:
    """What is known before the event loop runs."""

    settings: Settings
    topics: Topics
    partitions: int
    keys: ApiKeys
    metrics: GatewayMetrics
    health: Health
    config: uvicorn.Config
    listener: socket.socket


def run_gateway(settings: Settings, stop: threading.Event, begun: threading.Event) -> None:
    """Serve until `stop` is set; then take nothing new, finish what is under way, and end.

    Args:
        settings: the configuration; sections `worker`, `features` and `topics` as the workers have them.
        stop: ends it in order.
        begun: is set when it serves.

    Raises:
        SettingsError: for an address, keys or certificates that cannot be used.
        StreamError: when Kafka refuses this client, or a topic is gone.
    """
    keys = read_keys(settings.gateway)
    _warn(settings, keys)
    if settings.gateway.pages and not Path(settings.gateway.pages).is_dir():
        raise SettingsError(f"gateway.pages: {settings.gateway.pages} is no folder")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    topics = Topics(settings.topics.prefix)
    registry = CollectorRegistry()
    metrics, health = GatewayMetrics(registry), Health("gateway", registry)
    with Resources() as resources:
        config = configuration(settings.gateway)
        listener = resources.add(listen(settings.gateway.address))
        resources.add(MetricsServer(settings.gateway.metrics, registry, health))
        partitions = verify(settings.kafka, topics, configured=settings.topics.partitions)
        used = [topics.behaviors, topics.impressions, topics.clicks, topics.scores]
        resources.add(TopicWatch(settings.kafka, used, health.report_trouble))
        job = _Job(settings, topics, partitions, keys, metrics, health, config, listener)
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(job, stop, begun))


async def _serve(job: _Job, stop: threading.Event, begun: threading.Event) -> None:
    loop, own, kafka = asyncio.get_running_loop(), job.settings.gateway, job.settings.kafka
    failures: list[Exception] = []
    async with AsyncExitStack() as stack:
        # Closed in the reverse order. Threads that call the loop are not waited for in it.
        writer = RecordWriter(
            ReliableProducer(kafka),
            limit=own.max_unacknowledged,
            ack_s=max(_ACK_S, own.deadline_s),
            fail=failures.append,
        )
        stack.push_async_callback(_flush, writer, failures)
        checker = EventChecker(job.topics, job.settings, partitions=job.partitions, now_ms=_now_ms)

        def withdraw(impression: Impression) -> list[int]:
            return gateway.withdraw(impression)

        requests = Requests(
            deadline_s=own.deadline_s,
            remember_s=own.remember_s,
            remembered=own.remembered,
            withdraw=withdraw,
            clock=time.monotonic,
        )
        gateway = Gateway(job.settings, checker, writer, job.metrics, requests)
        peers = Peers(own.peers, own.peer, timeout_s=own.deadline_s)
        stack.push_async_callback(peers.close)
        feed = ScoreFeed(
            kafka,
            job.topics.scores,
            peers.partitions(job.partitions),
            since_ms=round(_now_ms() - 1000 * own.remember_s),
            take=lambda values: _hand_over(loop, gateway, values),
            fail=failures.append,
            health=job.health,
        )
        stack.push_async_callback(asyncio.to_thread, feed.close)
        feed.start()
        parts = Parts(gateway, checker, peers, job.keys, job.health, job.metrics)
        app = build(parts, max_body_bytes=own.max_body_bytes, pages=own.pages)
        job.config.app = measured(app, job.metrics)
        server = Server(job.config)
        serving = asyncio.create_task(server.serve([job.listener]))
        stack.push_async_callback(_end, server, serving)
        tune_gc()
        host, port = job.listener.getsockname()[:2]
        log(_logger, "started", address=f"{host}:{port}", partitions=job.partitions, peers=len(own.peers))
        begun.set()
        while not stop.is_set() and not failures and not serving.done():
            await asyncio.sleep(_TICK_S)
            gateway.report()
        gateway.draining = True
        deadline = time.monotonic() + own.deadline_s + _DRAIN_SLACK_S
        while gateway.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(_TICK_S / 10)
    if failures:
        raise failures[0]


async def _end(server: Server, serving: "asyncio.Task[None]") -> None:
    server.should_exit = True
    await serving


async def _flush(writer: RecordWriter, failures: list[Exception]) -> None:
    left = await asyncio.to_thread(writer.close, 0.0 if failures else _FLUSH_S)
    if left:
        log(_logger, "records_lost", logging.ERROR, records=left, why="Kafka has not acknowledged them")


def _hand_over(loop: asyncio.AbstractEventLoop, gateway: Gateway, values: list[bytes]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(gateway.take, values)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _warn(settings: Settings, keys: ApiKeys) -> None:
    own, worker = settings.gateway, settings.worker
    if keys and not own.certificate and not is_loopback(own.address):
        remedy = "set gateway.certificate, or put a proxy with TLS in front"
        log(_logger, "keys_readable", logging.WARNING, remedy=remedy)
    if worker.labels == "early" and worker.label_wait_s <= own.deadline_s:
        text = "what was not shown may be learned as unclicked before it is withdrawn"
        remedy = "set worker.label_wait_s above gateway.deadline_s"
        log(_logger, "labels_before_deadline", logging.WARNING, effect=text, remedy=remedy)

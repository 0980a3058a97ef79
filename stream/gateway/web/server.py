"""The job `samstream gateway`: puts the parts together, serves them, and ends in order."""

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

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
from stream.gateway.writer import RecordWriter
from stream.kafka.producer import ReliableProducer
from stream.kafka.topic_admin import verify
from stream.kafka.topic_watch import TopicWatch
from stream.runtime.addresses import host_and_port
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
_BACKLOG = 2048

Scope = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]


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
    topics = Topics(settings.topics.prefix)
    registry = CollectorRegistry()
    metrics, health = GatewayMetrics(registry), Health("gateway", registry)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with Resources() as resources:
        listener = resources.add(_listen(settings.gateway.address))
        config = _config(settings)
        resources.add(MetricsServer(settings.gateway.metrics, registry, health))
        partitions = verify(settings.kafka, topics, configured=settings.topics.partitions)
        resources.add(TopicWatch(settings.kafka, _used(topics), health.report_trouble))
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(settings, topics, partitions, keys, metrics, health, config, listener, stop, begun))


async def _serve(
    settings: Settings,
    topics: Topics,
    partitions: int,
    keys: ApiKeys,
    metrics: GatewayMetrics,
    health: Health,
    config: uvicorn.Config,
    listener: socket.socket,
    stop: threading.Event,
    begun: threading.Event,
) -> None:
    loop, own = asyncio.get_running_loop(), settings.gateway
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)

    checker = EventChecker(topics, settings, partitions=partitions, now_ms=lambda: time.time_ns() // 1_000_000)
    writer = RecordWriter(
        ReliableProducer(settings.kafka), limit=own.max_unacknowledged, ack_s=max(_ACK_S, own.deadline_s), fail=fail
    )

    def withdraw(impression: Impression) -> None:
        gateway.withdraw(impression)

    requests = Requests(
        deadline_s=own.deadline_s,
        remember_s=own.remember_s,
        remembered=own.remembered,
        withdraw=withdraw,
        clock=time.monotonic,
    )
    gateway = Gateway(settings, checker, writer, metrics, requests)
    peers = Peers(own.peers, own.peer, timeout_s=own.deadline_s)
    feed = ScoreFeed(
        settings.kafka,
        topics.scores,
        peers.partitions(partitions),
        since_ms=round(1000 * (time.time() - own.remember_s)),
        take=lambda values: _hand_over(loop, gateway, values),
        fail=fail,
        health=health,
    )
    feed.start()
    app = build(Parts(gateway, checker, peers, keys, health, metrics), max_body_bytes=own.max_body_bytes)
    config.app = measured(app, metrics)
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve([listener]))
    tune_gc()
    shown = listener.getsockname()
    log(_logger, "started", address=f"{shown[0]}:{shown[1]}", partitions=partitions, peers=len(own.peers))
    begun.set()
    try:
        while not stop.is_set() and not failures and not serving.done():
            await asyncio.sleep(_TICK_S)
            gateway.report()
        gateway.draining = True
        deadline = time.monotonic() + own.deadline_s + _DRAIN_SLACK_S
        while gateway.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(_TICK_S / 10)
    finally:
        server.should_exit = True
        await serving
        await peers.close()
        # Their threads must not be waited for in the loop, which they call.
        await asyncio.to_thread(feed.close)
        left = await asyncio.to_thread(writer.close, 0.0 if failures else _FLUSH_S)
        if left:
            log(_logger, "records_lost", logging.ERROR, records=left, why="Kafka has not acknowledged them")
    if failures:
        raise failures[0]


def measured(app: App, metrics: GatewayMetrics) -> App:
    """Return an application that counts its answers and how long they take."""
    known = {"/v1/rank", "/v1/click", "/v1/behaviors", "/v1/health", "/docs", "/docs/openapi.json"}

    async def answer(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        began, status = time.perf_counter(), 0
        path = scope["path"] if scope["path"] in known else "other"

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, note)
        finally:
            metrics.answers.labels(path, str(status)).inc()
            metrics.seconds.labels(path).observe(time.perf_counter() - began)

    return answer


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the job: the server itself would stop listening at once."""
        yield


def _hand_over(loop: asyncio.AbstractEventLoop, gateway: Gateway, values: list[bytes]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(gateway.take, values)


def _config(settings: Settings) -> uvicorn.Config:
    own = settings.gateway
    config = uvicorn.Config(
        "",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=5,
        ssl_certfile=own.certificate or None,
        ssl_keyfile=own.certificate_key or None,
    )
    try:
        if own.certificate:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                own.certificate, own.certificate_key or None
            )
    except OSError as error:
        raise SettingsError(f"gateway.certificate and gateway.certificate_key cannot be used: {error}") from None
    return config


def _listen(address: str) -> socket.socket:
    try:
        host, port = host_and_port(address)
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"gateway.address {address!r} cannot be served: {error}; write it as HOST:PORT") from None


def _used(topics: Topics) -> list[str]:
    return [topics.behaviors, topics.impressions, topics.clicks, topics.scores]


def _warn(settings: Settings, keys: ApiKeys) -> None:
    own, worker = settings.gateway, settings.worker
    if keys and not own.certificate and not is_loopback(own.address):
        remedy = "set gateway.certificate, or put a proxy with TLS in front"
        log(_logger, "keys_readable", logging.WARNING, remedy=remedy)
    if worker.labels == "early" and worker.label_wait_s <= own.deadline_s:
        text = "what was not shown may be learned as unclicked before it is withdrawn"
        remedy = "set worker.label_wait_s above gateway.deadline_s"
        log(_logger, "labels_before_deadline", logging.WARNING, effect=text, remedy=remedy)

"""The job `samstream monitor`: a Faust worker that ends with a status, and with one line where it cannot go on."""

import logging
import signal
import socket
from functools import partial

from aiokafka.errors import KafkaError
from faust.exceptions import ConsistencyError
from prometheus_client import CollectorRegistry

from stream.errors import KafkaClientError, MonitorError, SettingsError, StreamError
from stream.kafka.erasure_feed import ErasureFeed
from stream.kafka.groups import topics_of_others
from stream.kafka.topic_admin import verify
from stream.kafka.topic_watch import TopicWatch
from stream.monitor.application import web_address
from stream.monitor.client_log import take_over_logs
from stream.monitor.credentials import faust_connection
from stream.monitor.metrics import MonitorMetrics
from stream.monitor.monitor import Monitor
from stream.monitor.sources import Sources
from stream.monitor.stop_limit import StopLimit
from stream.runtime.closing import Resources
from stream.runtime.health import Health
from stream.runtime.logs import log
from stream.runtime.metrics_server import MetricsServer
from stream.schema.topics import Topics
from stream.settings import Settings

_logger = logging.getLogger("samstream.monitor")

_STOP_S = 20.0
_NOT_STOPPED = (
    f"it was told to stop and has not within {_STOP_S:.0f} s, as where Kafka does not answer. What it had not committed"
    " is counted by whoever has its partitions next"
)

_OF_TABLES = ("No space left", "Disk quota", "Read-only file system", "IO error", "Corruption", "lock hold by")
"""What RocksDB says, as plain `Exception`, of tables that it cannot keep."""


def run_monitor(settings: Settings) -> int:
    """Count, publish and serve until SIGTERM or Ctrl-C; returns the exit status.

    Raises:
        KafkaClientError: when Kafka cannot be reached, or refuses this client.
        TopicError: when topics are missing.
        SettingsError: when the settings cannot be used.
        MonitorError: when the tables are another system's, or cannot be kept in their directory.
        OSError: when the directory cannot be used.
    """
    monitor = prepare(settings)
    names = Topics(settings.topics.prefix)
    if logging.getLogger().level > logging.DEBUG:
        take_over_logs(settings.kafka)
    # Faust hears signals through its event loop, and only if nobody did before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    registry = CollectorRegistry()
    metrics, health = MonitorMetrics(registry), Health("monitor", registry)
    read = (names.outcomes, names.scores, names.experiment_metrics, names.model_updates, names.erasures)
    with Resources() as resources:
        resources.add(monitor.sources)
        feed = ErasureFeed(settings.kafka, names, settings.erasure_group("monitor"), monitor.erasures)
        resources.add(feed).start()
        resources.add(monitor.guardrails).start()
        monitor.app.task(partial(monitor.report, metrics, health, feed))
        resources.add(MetricsServer(settings.monitor.metrics, registry, health))
        watch = resources.add(TopicWatch(settings.kafka, read, health.report_trouble))
        monitor.tell_own_topics(watch.add)
        log(_logger, "started", group=settings.monitor.group, web=settings.monitor.web or "none")
        return _execute(monitor)


def prepare(settings: Settings) -> Monitor:
    """Return a monitor whose names, directory and topics are known to be its own.

    Raises:
        KafkaClientError: when Kafka cannot be reached, or refuses this client.
        TopicError: when topics are missing.
        SettingsError: when the settings cannot be used.
        MonitorError: when the group's or the directory's tables are another system's.
        OSError: when the directory cannot be used.
    """
    faust_connection(settings.kafka)
    _check_address(settings.monitor.web)
    names, group = Topics(settings.topics.prefix), settings.monitor.group
    verify(settings.kafka, names, configured=settings.topics.partitions)
    read = (names.outcomes, names.scores)
    if theirs := topics_of_others(settings.kafka, group, settings.topics.prefix, read):
        raise MonitorError(
            f"group {group} reads {', '.join(theirs)}, of another topics.prefix, and this monitor reads"
            f" {names.outcomes}: give each topics.prefix a monitor.group and a monitor.directory of its own"
        )
    monitor = Monitor(settings, Sources(settings))
    monitor.claim()
    return monitor


def _execute(monitor: Monitor) -> int:
    """Run Faust until it ends; returns the exit status."""
    worker = monitor.app.Worker(override_logging=False, quiet=True, redirect_stdouts=False, loglevel="WARNING")
    limit = StopLimit(_STOP_S, lambda: str(worker.crash_reason or _NOT_STOPPED))
    monitor.app.on_stopping = limit.begin
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        if worker.crash_reason is not None:
            raise _reason(worker.crash_reason, monitor) from None
        return int(ended.code or 0)
    finally:
        limit.cancel()


def _reason(crash: BaseException, monitor: Monitor) -> BaseException:
    """Return what a crash is to be reported as: an error of the tables or their disk names the directory."""
    settings = monitor.settings
    if isinstance(crash, StreamError):
        return crash
    if isinstance(crash, KafkaError):
        try:
            # Faust's client does not always survive that a topic is recreated.
            monitor.sources.check_now()
        except StreamError as error:
            return error
        return KafkaClientError(f"Faust's Kafka client cannot go on: {crash!r}. Start the monitor again")
    if isinstance(crash, ConsistencyError):
        return MonitorError(
            f"the tables in {settings.monitor.directory} go further than their changelog topic in Kafka, which was"
            f" recreated or has lost records. Move {settings.monitor.directory} away, then start again: what Kafka has"
            " is counted again."
        )
    said, directory = " ".join(str(crash).split()).removesuffix("."), settings.monitor.directory
    if isinstance(crash, OSError) or any(word in said for word in _OF_TABLES):
        return MonitorError(
            f"cannot keep tables in {directory}: {said}. Make room there or move the directory away, then start again:"
            " its contents are in Kafka, and what was not counted is read again."
        )
    return crash


def _check_address(web: str) -> None:
    """See that the page can be served; Faust would say so only in a stack trace."""
    host, port = web_address(web)
    try:
        if host:
            socket.create_server((host, port)).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(f"monitor.web {web!r} cannot be served: {error}; choose another address") from None

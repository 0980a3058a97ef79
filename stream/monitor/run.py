"""The job `samstream monitor`: a Faust worker that ends with a status, and with one line where it cannot go on."""

import logging
import signal
import socket
from contextlib import closing
from functools import partial

from prometheus_client import CollectorRegistry

from stream.errors import MonitorError, SettingsError, StreamError, TopicError
from stream.kafka import topic_admin as topics
from stream.kafka.topic_watch import TopicWatch
from stream.monitor.client_log import take_over_logs
from stream.monitor.metrics import MonitorMetrics
from stream.monitor.monitor import Monitor
from stream.runtime.health import Health
from stream.runtime.logs import log
from stream.runtime.metrics_server import MetricsServer
from stream.schema.topics import Topics
from stream.settings import Settings

_logger = logging.getLogger("samstream.monitor")

_OF_TABLES = ("No space left", "Disk quota", "Read-only file system", "IO error", "Corruption", "lock hold by")
"""What RocksDB says, as plain `Exception`, of tables that it cannot keep."""


def run_monitor(settings: Settings) -> int:
    """Count, publish and serve until SIGTERM or Ctrl-C; returns the exit status.

    Raises:
        KafkaClientError: when Kafka cannot be reached, or refuses this client.
        TopicError: when topics are missing.
        SettingsError: when the settings cannot be used.
        MonitorError: when the tables cannot be kept in their directory.
    """
    monitor = Monitor(settings)
    names = Topics(settings.topics.prefix)
    partitions = topics.verify(settings.kafka, names)
    if partitions != settings.topics.partitions:
        raise TopicError(f"topics.partitions is {settings.topics.partitions}, the topics have {partitions}")
    _check_address(settings.monitor.web)
    if logging.getLogger().level > logging.DEBUG:
        logging.getLogger("stream.monitor").setLevel(logging.WARNING)
        take_over_logs(settings.kafka)
    # Faust hears signals through its event loop, and only if nobody did before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    registry = CollectorRegistry()
    metrics, health = MonitorMetrics(registry), Health("monitor", registry)
    monitor.app.task(partial(monitor.report, metrics, health))
    read = (names.outcomes, names.scores, names.experiment_metrics, names.model_updates)
    with (
        closing(MetricsServer(settings.monitor.metrics, registry, health)),
        closing(TopicWatch(settings.kafka, read, health.report_trouble)),
    ):
        log(_logger, "started", group=settings.monitor.group, web=settings.monitor.web or "none")
        return _execute(monitor, settings)


def _execute(monitor: Monitor, settings: Settings) -> int:
    """Run Faust until it ends; returns the exit status."""
    worker = monitor.app.Worker(override_logging=False, quiet=True, redirect_stdouts=False, loglevel="WARNING")
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        if worker.crash_reason is not None:
            raise _reason(worker.crash_reason, settings) from None
        return int(ended.code or 0)


def _reason(crash: BaseException, settings: Settings) -> BaseException:
    """Return what a crash is to be reported as: an error of the tables or their disk names the directory."""
    if isinstance(crash, StreamError):
        return crash
    said, directory = " ".join(str(crash).split()).removesuffix("."), settings.monitor.directory
    if isinstance(crash, OSError) or any(word in said for word in _OF_TABLES):
        return MonitorError(
            f"cannot keep tables in {directory}: {said}. Make room there or move the directory away, then start again:"
            " its contents are in Kafka, and what was not counted is read again."
        )
    return crash


def _check_address(web: str) -> None:
    """See that the page can be served; Faust would say so only in a stack trace."""
    if not web:
        return
    host, _, port = web.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(f"monitor.web {web!r} cannot be served: {error}; choose another address") from None

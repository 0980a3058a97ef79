"""What a monitor serves to Prometheus agrees with what was written, and its health names a topic that is deleted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from stream.kafka.reader import TopicReader
from stream.local.broker import Broker
from stream.local.ports import free_port
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import wait_for
from tests.e2e.served import health, served
from tests.e2e.test_monitor import Monitors, Traffic


@pytest.fixture
def monitors(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Iterator[Monitors]:
    monitors = Monitors(kafka, topics, topic_prefix, tmp_path)
    yield monitors
    monitors.processes.stop()


def start(monitors: Monitors) -> int:
    """Start a monitor and return the port of its metrics, once these are there."""
    port = free_port()
    directory = f"monitor.directory={monitors.directory}/tables"
    more = ("--set", directory, "--set", "monitor.web=", "--set", f"monitor.metrics=127.0.0.1:{port}")
    monitors.processes.start("monitor", "monitor", *more)

    def has_partitions() -> bool:
        try:
            return served(port).get(("samstream_partitions",)) == PARTITIONS
        except OSError:
            return False

    wait_for(has_partitions, "the monitor to have its partitions", processes=monitors.processes)
    return port


def written(kafka: dict[str, str], topic: str) -> int:
    """Return how many records a topic has."""
    tail = TopicReader(kafka, [topic])
    try:
        return sum(tail.positions.values())
    finally:
        tail.close()


def test_what_a_monitor_serves_agrees_with_what_was_written(
    kafka: dict[str, str], topics: Topics, monitors: Monitors
) -> None:
    traffic = Traffic(kafka, topics)
    traffic.write(200)
    port = start(monitors)
    traffic.write(100)
    traffic.close_windows()
    count = written(kafka, topics.outcomes)

    def settled() -> bool:
        told = served(port)
        return told["samstream_records_total", "monitor"] >= count and bool(told.get(("samstream_monitor_windows",)))

    wait_for(settled, f"{count} outcomes to be counted", processes=monitors.processes)
    wait_for(lambda: monitors.agree(traffic), "all windows to be published", processes=monitors.processes)

    def published() -> bool:
        return served(port)["samstream_events_total", "published"] >= len(traffic.counted)

    wait_for(published, "the metrics to say so", processes=monitors.processes)
    told = served(port)
    assert told["samstream_events_total", "outcomes"] == told["samstream_records_total", "monitor"] == count
    assert told["samstream_lag_records", "monitor"] == told["samstream_buffered_records",] == 0
    assert told["samstream_monitor_uncounted", "repeated"] == traffic.repeated
    assert told["samstream_healthy", "monitor"] == 1
    status, said = health(port)
    assert (status, said["trouble"]) == (200, "")


@pytest.mark.parametrize("which", ["outcomes", "changelog", "fragments"])
def test_a_deleted_topic_turns_the_health_of_the_monitor_bad(
    kafka: dict[str, str], topics: Topics, topic_prefix: str, monitors: Monitors, broker: Broker, which: str
) -> None:
    """Also one of those that the monitors make themselves: what was counted lies in them."""
    if broker.engine is not None and broker.engine.name == "embedded":
        pytest.skip("the embedded broker creates a topic again as soon as anybody asks for it")
    port = start(monitors)
    status, said = health(port)
    assert (status, said["trouble"]) == (200, "")
    admin = AdminClient({**kafka, "log_level": 0})
    known = admin.list_topics(timeout=10).topics
    [topic] = [name for name in known if name.startswith(topic_prefix) and name.endswith(f"-{which}")]
    for deleted in admin.delete_topics([topic]).values():
        deleted.result()
    wait_for(
        lambda: topic in health(port)[1]["trouble"],
        "the monitor to be in trouble",
        processes=monitors.processes,
    )
    assert health(port)[0] == 503
    log = monitors.processes.log("monitor").read_text()
    assert log.count(f"topic_gone topic={topic} ") == 1, log
    assert " aiokafka" not in log, log

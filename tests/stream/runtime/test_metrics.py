"""Metrics and health: served over HTTP, good while work is done or there is none, bad when it stalls."""

import json
import logging
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families

from stream.errors import SettingsError
from stream.runtime.health import Health
from stream.runtime.metrics import Totals
from stream.runtime.metrics_server import MetricsServer
from stream.worker.metrics import WorkerMetrics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def health(registry: CollectorRegistry, clock: Clock) -> Health:
    return Health("worker", registry, clock=clock)


@pytest.fixture
def server(registry: CollectorRegistry, health: Health) -> Iterator[MetricsServer]:
    with closing(MetricsServer("127.0.0.1:0", registry, health)) as server:
        yield server


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(server: MetricsServer) -> dict[tuple[str, ...], float]:
    """Return name and label values → value of everything that is served."""
    status, text = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.long
def test_what_is_reported_is_served(
    health: Health, registry: CollectorRegistry, server: MetricsServer, clock: Clock
) -> None:
    Gauge("samstream_partitions", "", registry=registry).set(2)
    health.report(done=40, lag=9)
    health.report(done=43, lag=7)
    clock.now += 4
    found = metrics(server)
    assert found["samstream_partitions",] == 2
    assert found["samstream_records_total", "worker"] == 43
    assert found["samstream_lag_records", "worker"] == 7
    assert found["samstream_healthy", "worker"] == 1
    assert found["samstream_reading_age_seconds", "worker"] == 4
    assert found["samstream_progress_age_seconds", "worker"] == 4
    assert not [name for name, *_ in found if name.endswith("_created")]


@pytest.mark.long
def test_counters_follow_totals_that_never_fall(registry: CollectorRegistry, server: MetricsServer) -> None:
    events, totals = Counter("samstream_events", "", ["event"], registry=registry), Totals()
    totals.set_each(events, {"clicks": 3, "behaviors": 40, "samples": 0})
    totals.set_each(events, {"clicks": 5, "behaviors": 40})
    totals.set(events, 4, "clicks")
    totals.set(events, 6, "clicks")
    found = metrics(server)
    assert found["samstream_events_total", "clicks"] == 6
    assert found["samstream_events_total", "behaviors"] == 40
    assert found["samstream_events_total", "samples"] == 0


@pytest.mark.long
def test_health_turns_bad_when_records_wait_and_none_is_worked_off_and_good_again(
    health: Health, server: MetricsServer, clock: Clock
) -> None:
    for _ in range(10):
        health.report(done=43, lag=7)
        clock.now += 5
    status, text = get(server, "/health")
    assert status == 503
    assert json.loads(text)["healthy"] is False
    assert "7 records wait" in json.loads(text)["trouble"]
    assert metrics(server)["samstream_healthy", "worker"] == 0
    health.report(done=44, lag=6)
    assert get(server, "/health") == (200, '{"healthy": true, "trouble": "", "notes": []}')


@pytest.mark.long
def test_a_part_that_fails_is_said_and_leaves_the_job_healthy(health: Health, server: MetricsServer) -> None:
    health.note(["arm a: no answers"])
    assert get(server, "/health") == (200, '{"healthy": true, "trouble": "", "notes": ["arm a: no answers"]}')
    health.note([])
    assert get(server, "/health") == (200, '{"healthy": true, "trouble": "", "notes": []}')


def test_nothing_to_do_is_no_stall(health: Health, clock: Clock) -> None:
    for _ in range(100):
        health.report(done=43, lag=0)
        clock.now += 5
    assert not health.trouble()
    health.report(done=43, lag=1)
    clock.now += 29
    assert not health.trouble(), "a stall begins with the first record that waits"


def test_a_job_that_says_nothing_is_in_trouble(health: Health, clock: Clock) -> None:
    for _ in range(10):
        clock.now += 20
        health.report(done=43, lag=0)
    assert not health.trouble()
    clock.now += 31
    assert "no report for" in health.trouble()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:port", "127.0.0.1:99999", "256.0.0.1:80"])
def test_an_address_that_cannot_be_is_named(registry: CollectorRegistry, health: Health, address: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        MetricsServer(address, registry, health)


@pytest.mark.long
def test_an_address_that_is_taken_is_named_and_none_serves_nothing(
    registry: CollectorRegistry, health: Health, server: MetricsServer
) -> None:
    with pytest.raises(SettingsError, match=str(server.port)):
        MetricsServer(f"127.0.0.1:{server.port}", registry, health)
    nothing = MetricsServer("", registry, health)
    assert nothing.port == 0
    nothing.close()


@pytest.mark.long
def test_a_job_is_shown_as_it_reported_last(health: Health, server: MetricsServer, clock: Clock) -> None:
    clock.now += 20
    health.report(done=43, lag=7)
    found = metrics(server)
    assert found["samstream_reading_age_seconds", "worker"] == 0
    assert found["samstream_lag_records", "worker"] == 7
    assert found["samstream_records_total", "worker"] == 43


@pytest.mark.long
def test_durations_are_served_as_a_histogram(registry: CollectorRegistry, server: MetricsServer) -> None:
    answers = WorkerMetrics(registry).answer_seconds
    for seconds in (0.004, 0.02, 0.02, 1000.0):
        answers.observe(seconds)
    found = metrics(server)
    assert found["samstream_answer_seconds_bucket", "0.005"] == 1
    assert found["samstream_answer_seconds_bucket", "0.025"] == 3
    assert found["samstream_answer_seconds_bucket", "300.0"] == 3
    assert found["samstream_answer_seconds_bucket", "+Inf"] == found["samstream_answer_seconds_count",] == 4
    assert found["samstream_answer_seconds_sum",] == pytest.approx(1000.044)


@pytest.mark.long
def test_who_asks_and_goes_away_leaves_one_line_and_no_stack_trace(
    server: MetricsServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets it
        client.sendall(b"GET /metr")
    deadline = time.monotonic() + 20
    while not caplog.messages:
        assert time.monotonic() < deadline, "it says nothing"
        time.sleep(0.02)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("request_failed client=")
    assert "Traceback" not in capsys.readouterr().err
    assert get(server, "/health")[0] == 200


@pytest.mark.long
def test_named_trouble_turns_the_health_bad_until_it_is_over(health: Health, server: MetricsServer) -> None:
    health.report_trouble("topics", "clicks is gone")
    health.report_trouble("disk", "/data is full")
    status, text = get(server, "/health")
    assert (status, json.loads(text)["trouble"]) == (503, "clicks is gone; /data is full")
    assert metrics(server)["samstream_healthy", "worker"] == 0
    health.report_trouble("topics", "")
    assert health.trouble() == "/data is full"
    health.report_trouble("disk", "")
    assert get(server, "/health")[0] == 200

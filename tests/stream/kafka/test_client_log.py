"""librdkafka's own lines are events of ours: connections are told elsewhere, repetition is counted."""

import logging

import pytest

from stream.kafka.client_log import ClientLog, log_client_line
from stream.runtime.log_limit import LogLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_becomes_one_event_and_the_same_again_a_count(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limit = LogLimit(clock=clock)
    for number in range(100):
        text = f"Group session timed out after {number} ms"
        log_client_line("SESSTMOUT", logging.WARNING, text, limit=limit)
        clock.now += 1
    log_client_line("FENCED", logging.ERROR, "fenced", limit=limit)
    assert caplog.messages == [
        'kafka_client facility=SESSTMOUT message="Group session timed out after 0 ms"',
        'kafka_client facility=SESSTMOUT message="Group session timed out after 30 ms" repeated=29',
        'kafka_client facility=SESSTMOUT message="Group session timed out after 60 ms" repeated=29',
        'kafka_client facility=SESSTMOUT message="Group session timed out after 90 ms" repeated=29',
        "kafka_client facility=FENCED message=fenced",
    ]
    assert {record.levelno for record in caplog.records[:4]} == {logging.WARNING}


def test_lines_of_many_kinds_are_forgotten_and_none_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    limit = LogLimit(clock=Clock())
    for letter in range(1000):
        log_client_line("A", logging.WARNING, "x" * letter, limit=limit)
    assert len(caplog.messages) == 1000


@pytest.mark.parametrize(
    ("facility", "text"),
    [
        ("FAIL", "[thrd:GroupCoordinator]: GroupCoordinator: Connect to ipv4#127.0.0.1:1 failed: Connection refused"),
        ("ERROR", "[thrd:main]: 1/1 brokers are down"),
        ("CONFWARN", "[thrd:app]: Configuration property linger.ms will be ignored by this consumer instance"),
    ],
)
def test_what_is_told_elsewhere_or_is_no_news_is_left_out(
    caplog: pytest.LogCaptureFixture, facility: str, text: str
) -> None:
    caplog.set_level(logging.DEBUG)
    ClientLog().log(logging.ERROR, "%s [%s] %s", facility, "rdkafka#consumer-1", text)
    assert not caplog.messages


def test_the_thread_and_the_client_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    ClientLog().log(logging.WARNING, "%s [%s] %s", "MAXPOLL", "rdkafka#consumer-7", "[thrd:main]: exceeded\n by 5 ms")
    assert caplog.messages == ['kafka_client facility=MAXPOLL message="exceeded by 5 ms"']

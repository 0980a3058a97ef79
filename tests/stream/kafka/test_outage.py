"""Trouble with Kafka is told once when it begins, every 30 s with a count, and once when it is over."""

import logging
import re
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka import outage as outage_module
from stream.kafka.outage import Outage, outage_of

QUIET_S = 6.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lines(logging.Handler):
    """Collects what is logged, for tests in which hypothesis repeats the body."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("samstream.kafka").addHandler(self)
        return self.lines

    def __exit__(self, *_: object) -> None:
        logging.getLogger("samstream.kafka").removeHandler(self)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage("broker:9092", quiet_s=QUIET_S, clock=clock)


def run(outage: Outage, clock: Clock, seconds: int, act: Callable[[], None] = lambda: None) -> None:
    for _ in range(seconds):
        act()
        clock.now += 1
        outage.tick()


def test_an_hour_of_trouble_is_told_in_a_line_every_30_s_and_how_long_it_took(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3600):
        for client in range(40):
            outage.fail(f"client {client}: refused")
        clock.now += 1
        outage.tick()
    outage.answer()
    run(outage, clock, 60)
    first, *between, last = caplog.messages
    assert first == 'kafka_errors at=broker:9092 error="client 0: refused"'
    assert len(between) == 120
    assert between[0] == 'kafka_errors_continue at=broker:9092 seconds=30 errors=1199 error="client 39: refused"'
    assert between[1].startswith("kafka_errors_continue at=broker:9092 seconds=60 errors=1200 ")
    assert last == "kafka_recovered at=broker:9092 seconds=3600.000 errors=144000"


def test_answers_of_one_broker_do_not_end_the_trouble_with_another(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def one_answers_another_is_away() -> None:
        outage.fail("away")
        outage.answer()

    run(outage, clock, 100, one_answers_another_is_away)
    assert not [line for line in caplog.messages if "over" in line]
    assert len(caplog.messages) == 4
    run(outage, clock, 7, outage.answer)
    assert caplog.messages[-1].startswith("kafka_recovered at=broker:9092 seconds=99")


def test_silence_alone_does_not_end_it(outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage.fail("1 request(s) timed out")
    run(outage, clock, 100)
    assert outage.unanswered
    assert [line.split()[0] for line in caplog.messages] == ["kafka_errors", *["kafka_errors_continue"] * 3]


def test_a_closed_connection_is_told_only_if_kafka_does_not_answer(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outage.suspect("1/1 brokers are down")
    assert outage.unanswered
    outage.answer()
    assert not outage.tick()
    assert not caplog.messages
    outage.suspect("1/1 brokers are down")
    outage.no_answer()
    assert caplog.messages == ['kafka_errors at=broker:9092 error="1/1 brokers are down"']


def test_one_follower_is_asked_for_each_trouble(clock: Clock) -> None:
    begun: list[Outage] = []
    outage = Outage("broker:9092", quiet_s=QUIET_S, clock=clock, begun=begun.append)
    outage.suspect("down")
    outage.answer()
    outage.suspect("down")
    outage.fail("away")
    outage.fail("away")
    assert len(begun) == 1
    outage.answer()
    run(outage, clock, 7)
    outage.fail("away")
    assert len(begun) == 2


EVENTS = st.lists(st.sampled_from(["fail", "answer", "tick", "suspect", "no_answer"]), max_size=200)


@pytest.mark.long
@given(events=EVENTS)
def test_whatever_comes_lines_are_few_and_every_error_is_counted(events: list[str]) -> None:
    clock = Clock()
    outage = Outage("broker:9092", quiet_s=QUIET_S, clock=clock)
    failed = 0
    suspected = False
    with Lines() as lines:
        for event in events:
            if event == "fail":
                outage.fail("away")
                failed, suspected = failed + 1, False
            elif event == "answer":
                outage.answer()
                suspected = False
            elif event == "suspect":
                # Within a trouble it counts as one of its errors, else it is one only if Kafka does not answer.
                if told_open(lines):
                    failed += 1
                else:
                    suspected = True
                outage.suspect("down")
            elif event == "no_answer":
                outage.no_answer()
                failed, suspected = failed + suspected, False
            else:
                clock.now += 1
                outage.tick()
        outage.answer()
        for _ in range(8):
            clock.now += 1
            outage.tick()
    kinds = [line.split()[0] for line in lines]
    letters = {"kafka_errors": "b", "kafka_errors_continue": "c", "kafka_recovered": "r"}
    assert re.fullmatch(r"(bc*r)*", "".join(letters[kind] for kind in kinds))
    over = [int(line.rpartition("errors=")[2]) for line in lines if line.startswith("kafka_recovered")]
    assert sum(over) == failed
    assert kinds.count("kafka_errors_continue") <= (clock.now - 1000.0) / 30


def told_open(lines: list[str]) -> bool:
    """Return whether the last line leaves a trouble open."""
    return bool(lines) and not lines[-1].startswith("kafka_recovered")


def test_all_clients_of_one_address_report_to_one() -> None:
    kafka = {"bootstrap.servers": "127.0.0.1:1"}
    assert outage_of(kafka) is outage_of(kafka | {"group.id": "other"})
    assert outage_of(kafka) is not outage_of({"bootstrap.servers": "127.0.0.1:2"})


@pytest.mark.long
def test_trouble_is_followed_for_as_long_as_a_client_is_there_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage_module, "_WATCH_S", 0.1)
    others = threading.enumerate()
    outage = outage_of({"bootstrap.servers": "127.0.0.1:3"})
    outage.fail("away")
    [follower] = [thread for thread in threading.enumerate() if thread not in others and thread.name == "kafka-trouble"]
    follower.join(0.5)
    assert follower.is_alive()
    assert outage_of({"bootstrap.servers": "127.0.0.1:3"}).unanswered, "another client hears of it"
    del outage
    follower.join(30)
    assert not follower.is_alive()
    assert not outage_of({"bootstrap.servers": "127.0.0.1:3"}).unanswered

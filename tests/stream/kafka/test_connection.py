"""When waiting for Kafka is of no use: at once where it forbids, later where it refuses, never while it is away."""

import pytest
from confluent_kafka import KafkaError

from stream.errors import KafkaClientError
from stream.kafka.connection import ConnectionHealth, error_text
from stream.kafka.outage import Outage

AUTHENTICATION = KafkaError(KafkaError._AUTHENTICATION, "SASL: Invalid password (after 12ms in state AUTH_REQ)")
TLS = KafkaError(KafkaError._SSL, "SSL handshake failed: Connection reset by peer (after 3ms in state SSL_HANDSHAKE)")
ALERT = KafkaError(KafkaError._TRANSPORT, "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate")
AWAY = KafkaError(KafkaError._TRANSPORT, "Connect to ipv4#127.0.0.1:1 failed: Connection refused")
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> ConnectionHealth:
    kafka = {"bootstrap.servers": "broker:9093", "sasl.password": "marker"}
    return ConnectionHealth(kafka, outage=Outage("broker:9093", clock=clock), clock=clock)


def hear(health: ConnectionHealth, clock: Clock, error: KafkaError, *, every: float, seconds: float) -> None:
    until = clock.now + seconds
    while clock.now < until:
        health(error)
        clock.now += every


@pytest.mark.parametrize(
    ("error", "advice"), [(AUTHENTICATION, "kafka.sasl.password"), (TLS, "ssl.ca.location"), (ALERT, "ssl.certificate")]
)
def test_refusals_that_go_on_are_final_and_say_what_to_check(
    health: ConnectionHealth, clock: Clock, error: KafkaError, advice: str
) -> None:
    hear(health, clock, error, every=10.0, seconds=20.0)
    health.check()
    health(error)
    with pytest.raises(KafkaClientError, match=rf"'broker:9093' refuses this client: .*{advice}") as caught:
        health.check()
    text = str(caught.value)
    assert "ms in state" not in text
    assert "\n" not in text
    assert "marker" not in text


def test_refusals_with_an_answer_or_a_pause_between_are_not_final(health: ConnectionHealth, clock: Clock) -> None:
    for _ in range(10):
        hear(health, clock, TLS, every=1.0, seconds=19.0)
        health.check()
        health.mark_reachable()
    hear(health, clock, TLS, every=16.0, seconds=200.0)
    health.check()


def test_a_kafka_that_is_away_is_never_final(health: ConnectionHealth, clock: Clock) -> None:
    for error in (AWAY, DOWN):
        hear(health, clock, error, every=1.0, seconds=3600.0)
        health.check()
    assert not health.refused


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._FATAL])
def test_what_is_forbidden_or_fenced_is_final_at_once(health: ConnectionHealth, code: int) -> None:
    health(KafkaError(code, "no"))
    with pytest.raises(KafkaClientError, match="refuses this client: no"):
        health.check()


def test_what_was_heard_of_a_kafka_without_an_answer_is_told(health: ConnectionHealth) -> None:
    assert "it does not answer" in str(health.failure())
    health(DOWN)
    assert "closes connections without a word" in str(health.failure())
    health(AWAY)
    assert "Connection refused. Is it running" in str(health.failure())


def test_the_same_is_logged_now_and_then_and_never_by_who_says_it_himself(
    health: ConnectionHealth, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        health(KafkaError(KafkaError._AUTHENTICATION, f"Invalid password (after {clock.now:.0f}ms in state AUTH_REQ)"))
        clock.now += 0.25
    assert len(caplog.records) == 3
    ConnectionHealth({}, log_errors=False)(AWAY)
    assert len(caplog.records) == 3
    assert {line.partition(" ")[0] for line in caplog.messages} == {"kafka_error"}
    assert error_text(AUTHENTICATION) == "SASL: Invalid password"


def test_an_unknown_topic_is_no_trouble_with_the_connection(
    health: ConnectionHealth, caplog: pytest.LogCaptureFixture
) -> None:
    for code in (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART):
        health(KafkaError(code, "clicks [0]: topic does not exist"))
    assert not caplog.messages
    health.check()


def test_several_clients_tell_of_one_trouble_together_and_any_of_them_ends_it(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage("broker:9093", clock=clock)
    clients = [ConnectionHealth({}, outage=outage, clock=clock) for _ in range(4)]
    for _ in range(10):
        for client in clients:
            client(AWAY)
            client(DOWN)
        clock.now += 1
    clients[0].mark_waiting(3)
    clients[2].mark_reachable()
    clock.now += 10
    outage.tick()
    assert [line.partition(" ")[0] for line in caplog.messages] == ["kafka_errors", "kafka_recovered"]
    assert "errors=81" in caplog.messages[1]
    clients[0].mark_waiting(3)
    assert caplog.messages[2].endswith('error="3 records wait to be acknowledged"')

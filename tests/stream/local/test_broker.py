"""A local broker of either engine: it comes up, goes down, survives what it says, and explains itself."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from stream.errors import BrokerError, EngineMissingError
from stream.kafka import topic_admin as topics
from stream.local.broker import Broker, local_broker
from stream.local.engines import ENGINES
from stream.local.ports import is_free
from stream.schema.topics import Topics

LARGEST = {"embedded": 1_000_000, "kafka": 1_048_576}
"""The largest record that an engine takes as it is configured here."""


@pytest.fixture
def own(broker: Broker) -> str:
    """The engine's name, where this test may start brokers of its own."""
    if broker.engine is None:
        pytest.skip("the broker runs elsewhere")
    return broker.engine.name


def _port(broker: Broker) -> int:
    return int(broker.bootstrap.rpartition(":")[2])


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    with suppress(psutil.NoSuchProcess):  # it may go between two questions
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} lives on"
            time.sleep(0.02)


def _values(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """Read `count` records of partition 0 from its beginning, or what there is within 20 s."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "log_level": 0})
    consumer.assign([TopicPartition(topic, 0, 0)])
    deadline = time.monotonic() + 20
    values: list[bytes] = []
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None and (value := message.value()) is not None:
            values.append(value)
    consumer.close()
    return values


def test_starts_restarts_on_the_same_data_and_stops(own: str, tmp_path: Path) -> None:
    with local_broker(own, tmp_path / "broker") as broker:
        assert broker.process is not None
        first = broker.process.pid
        assert os.getsid(first) != os.getsid(0), "Ctrl-C would reach it"
        kafka = {"bootstrap.servers": broker.bootstrap}
        topics.ensure(kafka, Topics(), partitions=2, replication=1)
        broker.stop()
        broker.start()
        last = broker.process.pid
        assert last != first
        assert topics.verify(kafka, Topics()) == 2
    assert is_free(_port(broker))
    _wait_gone(last)


@pytest.mark.durable_broker
def test_what_was_acknowledged_survives_a_kill(kafka: dict[str, str], topics: Topics, broker: Broker) -> None:
    sent = [b"%d" % number for number in range(1000)]
    producer = Producer({**kafka, "acks": "all", "log_level": 0})
    for value in sent:
        producer.produce(topics.dead_letters, value)
    assert producer.flush(20) == 0
    broker.kill()
    assert is_free(_port(broker))
    broker.start()
    assert _values(broker.bootstrap, topics.dead_letters, len(sent)) == sent


def test_largest_message_of_the_engine(kafka: dict[str, str], topics: Topics, broker: Broker) -> None:
    if broker.engine is None:
        pytest.skip("the broker runs elsewhere")
    value = os.urandom(LARGEST[broker.engine.name] - 1000)
    producer = Producer({**kafka, "message.max.bytes": 2_000_000, "log_level": 0})
    producer.produce(topics.dead_letters, value)
    assert producer.flush(20) == 0
    assert _values(broker.bootstrap, topics.dead_letters, 1) == [value]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a child with its parent on Linux only")
def test_dies_with_a_killed_parent(own: str, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from stream.local.broker import local_broker\n"
        "with local_broker(sys.argv[1], pathlib.Path(sys.argv[2])) as broker:\n"
        "    print(broker.process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, own, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.send_signal(signal.SIGKILL)
    _wait_gone(child)


def test_hands_an_address_through(tmp_path: Path) -> None:
    with local_broker("one.example:9092,two.example:9093", tmp_path) as broker:
        assert broker.bootstrap == "one.example:9092,two.example:9093"
        assert (broker.engine, broker.process, broker.durable) == (None, None, False)
        broker.stop()
        for refused in (broker.kill, broker.start):
            with pytest.raises(BrokerError, match="runs elsewhere"):
                refused()


@pytest.mark.parametrize("engine", ["redpanda", "localhost", ":9092", "host:port", ""])
def test_refuses_what_is_no_engine(engine: str, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"embedded, kafka or HOST:PORT"), local_broker(engine, tmp_path):
        pass


def test_says_that_the_port_is_taken(own: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} .* taken"), local_broker(own, tmp_path, port):
            pass


def test_says_what_the_embedded_engine_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with (
        pytest.raises(EngineMissingError, match=r"pip install 'samstream\[embedded\]'"),
        local_broker("embedded", tmp_path),
    ):
        pass


def _java(directory: Path, body: str) -> None:
    """Put a `java` into `directory` that prints a version, and else does `body`."""
    script = directory / "bin" / "java"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A KAFKA_HOME whose jars are empty, and a JAVA_HOME without a java."""
    (tmp_path / "kafka" / "libs").mkdir(parents=True)
    (tmp_path / "kafka" / "libs" / "kafka_2.13-4.3.0.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "kafka"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    return tmp_path


def test_apache_kafka_says_what_it_needs(distribution: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        with pytest.raises(EngineMissingError) as caught, local_broker("kafka", distribution / "broker"):
            pass
        return str(caught.value)

    assert "there is no java" in reason()
    _java(distribution / "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    assert "needs Java 17 or newer" in reason()
    (distribution / "kafka" / "libs" / "kafka_2.13-4.3.0.jar").unlink()
    assert "no libs/kafka_" in reason()
    monkeypatch.delenv("KAFKA_HOME")
    assert "KAFKA_HOME is not set" in reason()


def test_a_broker_that_does_not_come_up_is_quoted(distribution: Path) -> None:
    _java(
        distribution / "java",
        """[ "$1" = -version ] && { echo 'openjdk version "21" 2023-09-19' >&2; exit; }\n"""
        """case "$*" in *StorageTool*) exit 0;; esac\necho 'ERROR the disk is on fire'; exit 7""",
    )
    with (
        pytest.raises(BrokerError, match=r"(?s)ended with status 7; .*broker\.log ends:.*the disk is on fire"),
        local_broker("kafka", distribution / "broker"),
    ):
        pass


def test_only_the_durable_engine_is_said_to_survive_a_kill() -> None:
    assert {name: engine.durable for name, engine in ENGINES.items()} == {"embedded": False, "kafka": True}

"""The two broker engines that can be started here, and how they differ: the embedded one and Apache Kafka."""

import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stream.errors import BrokerError, EngineMissingError
from stream.local.ports import LOOPBACK, is_free

_JAVA = 17
_BEHIND = "127.0.0.2"
"""Where the embedded broker listens behind the proxy."""
_GIVE_BACK = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Has glibc give large buffers back: answers of many megabytes else stay in the proxy's memory by the gigabyte."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine.

    Attributes:
        name: as `local_broker` takes it.
        durable: what was acknowledged survives kill -9.
        command: prepares a data directory for (directory, port, server properties) and returns the command that
            serves it in the foreground.
        environment: variables that it runs with, beside those of this process.
    """

    name: str
    durable: bool
    command: Callable[[Path, int, Mapping[str, object]], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)


def _embedded(directory: Path, port: int, properties: Mapping[str, object]) -> list[str]:
    if properties:
        raise BrokerError("the embedded broker takes no server properties; Apache Kafka does")
    found = importlib.util.find_spec("noida_db")
    if found is None or found.origin is None:
        raise EngineMissingError("the embedded broker is not installed: pip install 'samstream[embedded]'")
    binary = Path(found.origin).with_name("noida-db")
    if not os.access(binary, os.X_OK):  # wheels carry no mode on some installers
        binary.chmod(0o755)
    serve = [str(binary), "start", "--only", "kafka", "--kafka-port", str(port), "--data-dir", str(directory / "data")]
    if not is_free(port, _BEHIND):  # not every system has more than one loopback address
        return serve
    return [sys.executable, "-m", "stream.local.long_poll", LOOPBACK, _BEHIND, str(port), *serve, "--host", _BEHIND]


def _apache(directory: Path, port: int, more: Mapping[str, object]) -> list[str]:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise EngineMissingError(
            "KAFKA_HOME is not set: set it to the directory of an Apache Kafka 4, or use the embedded broker"
        )
    libs = Path(home).resolve() / "libs"
    if not any(libs.glob("kafka_*.jar")):
        raise EngineMissingError(f"KAFKA_HOME={home}: there is no libs/kafka_*.jar in it")
    java = [_java(), "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true"]
    java += ["-Dorg.apache.logging.log4j.level=WARN", "-cp", f"{libs}/*"]
    properties = directory / "server.properties"
    properties.write_text(_server_properties(directory / "data", port, more))
    if not (directory / "data" / "meta.properties").exists():
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        storage = [
            *java,
            "kafka.tools.StorageTool",
            "format",
            f"--cluster-id={cluster}",
            "--config",
            str(properties),
        ]
        done = subprocess.run(storage, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BrokerError(f"Apache Kafka could not format {directory}:\n{done.stdout}{done.stderr}")
    return [*java, "kafka.Kafka", str(properties)]


def _server_properties(data: Path, port: int, more: Mapping[str, object]) -> str:
    """Return the configuration of a single KRaft node that is broker and controller."""
    values = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{port + 1}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # A killed broker is fenced, and a new one taken up, after seconds instead of half a minute.
        "broker.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 2000,
        **more,
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME={home}" if home else "the path"
        raise EngineMissingError(f"Apache Kafka needs Java {_JAVA} or newer; there is no java in {where}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < _JAVA:
        raise EngineMissingError(f"Apache Kafka needs Java {_JAVA} or newer; {java} says: {said.strip()}")
    return java


ENGINES = {
    # It keeps its log in memory and saves it late; what it acknowledged last is gone after kill -9.
    "embedded": Engine("embedded", durable=False, command=_embedded, environment=_GIVE_BACK),
    "kafka": Engine("kafka", durable=True, command=_apache),
}

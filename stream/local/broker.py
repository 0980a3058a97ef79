"""A local Kafka broker of either engine behind one interface, or the address of one that runs elsewhere.

`local_broker("embedded" | "kafka" | "HOST:PORT", directory)`: nothing else knows how the engines differ. The
embedded one is the wheel `noida-db`; `kafka` is Apache Kafka from a distribution, one KRaft node
(KIP-500), found by `KAFKA_HOME`. Both listen on loopback only, for laptops and tests, never for production.
"""

import base64
import importlib.util
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.errors import BrokerError, EngineMissingError
from stream.local.processes import die_with_parent, how_it_ended

_START_S = 60.0
_STOP_S = 20.0
_LOG_TAIL = 15
_JAVA = 17
_NONE: Mapping[str, object] = MappingProxyType({})
_HOST = "127.0.0.1"
_BEHIND = "127.0.0.2"
"""Where the embedded broker listens when a proxy stands before it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What is particular to one engine.

    Attributes:
        name: as `local_broker` takes it.
        durable: what was acknowledged survives kill -9.
        max_message_bytes: the largest record the engine takes as it is configured here.
        command: prepares a data directory for (directory, port, server properties) and returns the command that
            serves it in the foreground.
    """

    name: str
    durable: bool
    max_message_bytes: int
    command: Callable[[Path, int, Mapping[str, object]], list[str]]


class Broker:
    """A broker that clients can reach at `bootstrap`.

    Attributes:
        bootstrap: value for librdkafka's `bootstrap.servers`.
        engine: the engine's facts; None for a broker that runs elsewhere and is only pointed at.
        process: the broker's process, led in a session of its own so that Ctrl-C does not reach it; None as
            above.
    """

    def __init__(
        self,
        bootstrap: str,
        engine: Engine | None = None,
        directory: Path | None = None,
        properties: Mapping[str, object] = _NONE,
    ) -> None:
        self.bootstrap = bootstrap
        self.engine = engine
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = directory
        self._properties = properties

    @property
    def pid(self) -> int | None:
        """The broker's process id; None for one that runs elsewhere."""
        return self.process.pid if self.process else None

    @property
    def durable(self) -> bool:
        """Whether what it acknowledged survives `kill`; False for a broker elsewhere: it has no `kill`."""
        return self.engine is not None and self.engine.durable

    @property
    def ended(self) -> bool:
        """Whether a broker that was started here has ended."""
        return self.process is not None and self.process.poll() is not None

    def check(self) -> None:
        """See that a broker that was started here has not ended.

        Raises:
            BrokerError: when it has; quotes the end of its log.
        """
        if self.ended:
            raise self._broken(how_it_ended(self.process.returncode if self.process else 0))

    def alive(self) -> bool:
        """Return whether the broker answers a client that brings no credentials."""
        return _answers(self.bootstrap, whole=False)

    def start(self) -> None:
        """Start the engine on its data, and wait until it answers and every partition has a leader.

        Raises:
            EngineMissingError: when the engine is not installed.
            BrokerError: when it does not come up; quotes the end of its log.
        """
        engine, directory = self._own()
        if self.process is not None and self.process.poll() is None:
            return
        if not _is_free(port := int(self.bootstrap.rpartition(":")[2])):
            raise BrokerError(f"port {port} of 127.0.0.1 is taken: end what listens there, or choose another port")
        directory.mkdir(parents=True, exist_ok=True)
        command = engine.command(directory, port, self._properties)
        log = directory / "broker.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + _START_S
        while not _answers(self.bootstrap, whole=True):
            code = self.process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            self.kill()
            raise self._broken(f"is not ready after {_START_S:.0f} s" if code is None else how_it_ended(code))

    def stop(self) -> None:
        """End the broker in order (SIGTERM), by force when it takes longer than 20 s.

        Does nothing for a broker that runs elsewhere.
        """
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_S)
            self.kill()

    def kill(self) -> None:
        """Kill -9 the broker and wait until it is gone.

        Raises:
            BrokerError: for a broker that runs elsewhere.
        """
        self._own()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """Stop the broker where it runs, and start it on the same data and port.

        Raises:
            BrokerError: for a broker that runs elsewhere, or when it does not come up again.
        """
        self.stop()
        self.start()

    def _broken(self, how: str) -> BrokerError:
        engine, directory = self._own()
        log = directory / "broker.log"
        tail = log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
        return BrokerError(f"the {engine.name} broker at {self.bootstrap} {how}; {log} ends:\n  " + "\n  ".join(tail))

    def _own(self) -> tuple[Engine, Path]:
        if self.engine is None or self._directory is None:
            raise BrokerError(
                f"the broker at {self.bootstrap} runs elsewhere: it cannot be started or killed from here"
            )
        return self.engine, self._directory


@contextmanager
def local_broker(
    engine: str, directory: Path, port: int | None = None, *, properties: Mapping[str, object] = _NONE
) -> Iterator[Broker]:
    """Start a broker and stop it at the end; its process dies with this one, also by kill -9 (Linux).

    Args:
        engine: `embedded`, `kafka` (Apache Kafka in `KAFKA_HOME`), or `HOST:PORT[,HOST:PORT…]` of a cluster
            that runs already, which is only handed through.
        directory: the broker's data and `broker.log`; taken up again when a broker had it before.
        port: where clients connect on 127.0.0.1; a free one when None. Apache Kafka's controller takes `port
            + 1`.
        properties: server properties of Apache Kafka that come before those set here; no other engine has any.

    Raises:
        EngineMissingError: when the engine is not installed.
        BrokerError: when the engine is unknown, or does not come up; quotes the end of its log.
    """
    if re.fullmatch(r"[^\s:,]+:\d+(,[^\s:,]+:\d+)*", engine):
        yield Broker(engine)
        return
    if engine not in ENGINES:
        raise BrokerError(f"no broker engine {engine!r}: give {', '.join(sorted(ENGINES))} or HOST:PORT")
    address = f"{_HOST}:{_free_port() if port is None else port}"
    broker = Broker(address, ENGINES[engine], directory.resolve(), properties)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


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
    if not _is_free(port, _BEHIND):  # not every system has more than one loopback address
        return serve
    return [sys.executable, "-m", "stream.local.long_poll", _HOST, _BEHIND, str(port), *serve, "--host", _BEHIND]


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
    "embedded": Engine("embedded", durable=False, max_message_bytes=1_000_000, command=_embedded),
    "kafka": Engine("kafka", durable=True, max_message_bytes=1_048_576, command=_apache),
}


def _free_port() -> int:
    """Return a port that is free together with its successor.

    It lies below the range from which systems take the ports of outgoing connections: a client that knocks at
    a broker that is down can otherwise be connected to itself, and keep the port from the broker.
    """
    for _ in range(200):
        port = random.randrange(15_000, 32_000, 2)
        if _is_free(port) and _is_free(port + 1):
            return port
    raise BrokerError("found no two free ports next to each other between 15000 and 32000 on 127.0.0.1")


def _is_free(port: int, host: str = _HOST) -> bool:
    with socket.socket() as probe:
        # As a server binds: connections of the last broker that are still closing do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _answers(bootstrap: str, *, whole: bool) -> bool:
    """Return whether a broker answers a request for its topics; `whole`: and every partition has a leader."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    try:
        # A refused connection is cheaper seen here than by librdkafka, which backs off and logs.
        socket.create_connection((host, int(port)), timeout=1.0).close()
        topics = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=2.0).topics
    except (OSError, KafkaException):
        return False
    return not whole or all(known.leader >= 0 for topic in topics.values() for known in topic.partitions.values())

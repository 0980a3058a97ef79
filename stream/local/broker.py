"""A local Kafka broker of either engine behind one interface, or the address of one that runs elsewhere.

`local_broker("embedded" | "kafka" | "HOST:PORT", directory)`: nothing else knows how the engines differ. The
embedded one is the wheel `noida-db`; `kafka` is Apache Kafka from a distribution, one KRaft node
(KIP-500), found by `KAFKA_HOME`. Both listen on loopback only, for laptops and tests, never for production.
"""

import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.errors import BrokerError
from stream.local.engines import ENGINES, Engine
from stream.local.ports import LOOPBACK, free_port, is_free
from stream.local.processes import describe_exit, kill_with_parent, log_tail
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.local")

_START_S = 60.0
_STOP_S = 20.0
_NONE: Mapping[str, object] = MappingProxyType({})


class Broker:
    """A broker that clients can reach at `bootstrap`.

    Attributes:
        bootstrap: value for librdkafka's `bootstrap.servers`.
        engine: the engine; None for a broker that runs elsewhere.
        process: the broker's process, in a session of its own so that Ctrl-C does not reach it; None for a broker
            that runs elsewhere.
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
    def durable(self) -> bool:
        """Whether acknowledged records survive `kill`; False for a broker that runs elsewhere."""
        return self.engine is not None and self.engine.durable

    @property
    def ended(self) -> bool:
        """Whether a broker that was started here has ended."""
        return self.process is not None and self.process.poll() is not None

    def check(self) -> None:
        """Check that a broker that was started here has not ended.

        Raises:
            BrokerError: when it has; quotes the end of its log.
        """
        if self.ended:
            raise self._broken(describe_exit(self.process.returncode if self.process else 0))

    def start(self) -> None:
        """Start the engine on its data, and wait until it answers and every partition has a leader.

        Raises:
            EngineMissingError: when the engine is not installed.
            BrokerError: when it does not come up; quotes the end of its log.
        """
        engine, directory = self._own()
        if self.process is not None and self.process.poll() is None:
            return
        if not is_free(port := int(self.bootstrap.rpartition(":")[2])):
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
                env={**os.environ, **engine.environment},
                start_new_session=True,
                preexec_fn=kill_with_parent,
            )
        deadline = time.monotonic() + _START_S
        while not _is_ready(self.bootstrap):
            code = self.process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            self.kill()
            raise self._broken(f"is not ready after {_START_S:.0f} s" if code is None else describe_exit(code))

    def stop(self) -> None:
        """End the broker in order (SIGTERM), by force when it takes longer than 20 s.

        Does nothing for a broker that runs elsewhere.
        """
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                log(_logger, "killed", logging.WARNING, process="broker", waited_s=_STOP_S)
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

    def _broken(self, how: str) -> BrokerError:
        engine, directory = self._own()
        log = directory / "broker.log"
        return BrokerError(f"the {engine.name} broker at {self.bootstrap} {how}; {log} ends:\n{log_tail(log)}")

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
            that runs already.
        directory: the broker's data and `broker.log`; a broker that had it before goes on with its data.
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
    address = f"{LOOPBACK}:{free_port() if port is None else port}"
    broker = Broker(address, ENGINES[engine], directory.resolve(), properties)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def _is_ready(bootstrap: str) -> bool:
    """Return whether a broker answers a request for its topics, and every partition has a leader."""
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    try:
        # A refused connection is cheaper seen here than by librdkafka, which backs off and logs.
        socket.create_connection((host, int(port)), timeout=1.0).close()
        topics = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=2.0).topics
    except (OSError, KafkaException):
        return False
    return all(known.leader >= 0 for topic in topics.values() for known in topic.partitions.values())

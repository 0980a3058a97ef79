"""A whole system on one machine, for demo, replay and tests: broker, topics, workers, trainer, and perhaps more."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import msgspec

from stream.errors import ChildDiedError
from stream.kafka import topic_admin as topics
from stream.local.broker import Broker, local_broker
from stream.local.ports import free_port
from stream.local.processes import describe_exit, kill_with_parent, log_tail
from stream.runtime.logs import log
from stream.schema.topics import Topics
from stream.settings import Settings

_logger = logging.getLogger("samstream.local")

_STOP_S = 30.0
_OPTIONAL_NICE = 10


class Processes:
    """samstream subcommands as child processes; `check` raises when one has died.

    Children are killed when this process dies, however it dies.

    Args:
        directory: gets their `settings.json`, and `logs/` with one file a child.
        settings: what all of them are started with.
        launcher: arguments of Python that run the module behind them, as `-m cProfile`; none to run it directly.
    """

    def __init__(self, directory: Path, settings: Settings, launcher: Sequence[str] = ()) -> None:
        self._launcher = launcher
        self._logs = directory / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._settings = directory / "settings.json"
        # Passwords may be among the [kafka] properties.
        self._settings.touch(mode=0o600)
        self._settings.write_bytes(msgspec.json.format(msgspec.json.encode(settings)))
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._optional: set[str] = set()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all children."""
        self.stop()

    def start(
        self,
        name: str,
        command: str,
        *arguments: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        optional: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start `samstream COMMAND ARGUMENTS` under a name of its own; returns the process.

        An optional one runs at a lower priority, and `check` ignores its end.
        """

        def prepare() -> None:
            kill_with_parent()
            if optional:
                os.nice(_OPTIONAL_NICE)

        if optional:
            self._optional.add(name)
        # The settings file is complete; the environment must not change it again.
        inherited = {key: value for key, value in os.environ.items() if not _is_setting(key)}
        with self.log(name).open("ab") as output:
            self._children[name] = subprocess.Popen(
                [
                    sys.executable,
                    *self._launcher,
                    "-m",
                    "stream.cli",
                    command,
                    "--config",
                    str(self._settings),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **environment},
                start_new_session=True,
                preexec_fn=prepare,
            )
        return self._children[name]

    def pid(self, name: str) -> int:
        """Return the process id of a child."""
        return self._children[name].pid

    def log(self, name: str) -> Path:
        """Return the path of a child's log."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Check that all children live that are not optional.

        Raises:
            ChildDiedError: names the first that does not, how it ended, and the end of its log.
        """
        for name, child in self._children.items():
            if name not in self._optional and (code := child.poll()) is not None:
                path = self.log(name)
                raise ChildDiedError(f"{name} {describe_exit(code)}; the end of {path}:\n{log_tail(path)}")

    def ended_optional(self) -> list[str]:
        """Return the names of optional children that have ended."""
        return [name for name, child in self._children.items() if name in self._optional and child.poll() is not None]

    def release(self, name: str) -> subprocess.Popen[bytes]:
        """Return a child and forget it: the caller must end it and wait for it."""
        return self._children.pop(name)

    def kill(self) -> None:
        """Kill -9 all children."""
        for child in self._children.values():
            child.kill()

    def stop(self) -> None:
        """Ask all children to end (SIGTERM), wait, and kill what does not."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + _STOP_S
        for name, child in self._children.items():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log(_logger, "killed", logging.WARNING, process=name, waited_s=_STOP_S)
                child.kill()
                child.wait()
        self._children.clear()


@dataclass(frozen=True, slots=True)
class System:
    """A running system: its settings (with the broker's address), topic names, processes and broker."""

    settings: Settings
    topics: Topics
    processes: Processes
    broker: Broker

    def check(self) -> None:
        """Check that the broker and all processes live.

        Raises:
            BrokerError, ChildDiedError: when one does not; says how it ended, with the end of its log.
        """
        self.broker.check()
        self.processes.check()


@contextmanager
def local_system(
    settings: Settings,
    *,
    broker: str,
    directory: Path,
    workers: int = 1,
    monitor: bool = False,
    pages: Path | None = None,
    launcher: Sequence[str] = (),
) -> Iterator[System]:
    """Start a broker, the topics, workers and one trainer; stop them in the reverse order at the end.

    Where the settings have a bandit, it is started as well.

    State, checkpoints and logs lie in `directory`.

    Args:
        settings: as configured; addresses and directories are set here.
        broker: `embedded`, `kafka`, or `HOST:PORT` of a cluster that runs already.
        directory: a directory of this run.
        workers: how many workers share the partitions.
        monitor: start one as well, on a free port of this machine; `check` ignores its end.
        pages: start a gateway as well, likewise, that serves this folder; None for no gateway.
        launcher: as `Processes` takes it.
    """
    with local_broker(broker, directory / "broker") as running:
        settings = msgspec.structs.replace(
            settings,
            kafka={**settings.kafka, "bootstrap.servers": running.bootstrap},
            state=msgspec.structs.replace(settings.state, directory=str(directory / "state")),
            trainer=msgspec.structs.replace(settings.trainer, directory=str(directory / "checkpoints")),
            monitor=msgspec.structs.replace(
                settings.monitor,
                directory=str(directory / "monitor"),
                web=f"127.0.0.1:{free_port()}" if monitor else "",
            ),
            gateway=settings.gateway
            if pages is None
            else msgspec.structs.replace(settings.gateway, address=f"127.0.0.1:{free_port()}", pages=str(pages)),
        )
        names = Topics(settings.topics.prefix)
        topics.ensure(
            settings.kafka,
            names,
            partitions=settings.topics.partitions,
            replication=settings.topics.replication,
        )
        with Processes(directory, settings, launcher) as processes:
            processes.start("trainer", "trainer")
            for number in range(1, workers + 1):
                processes.start(f"worker-{number}", "worker")
            if settings.bandit.on:
                processes.start("bandit", "bandit")
            if monitor:
                processes.start("monitor", "monitor", optional=True)
            if pages is not None:
                processes.start("gateway", "gateway", optional=True)
            try:
                yield System(settings, names, processes, running)
            finally:
                if running.ended:
                    processes.kill()  # they would wait for it to take their last records


def keep_logs(directory: Path, report: Path) -> None:
    """Copy the logs of a run to `<report>/logs`, in place of those of an earlier one; logs it where that fails."""
    if (logs := directory / "logs").is_dir():
        shutil.rmtree(report / "logs", ignore_errors=True)
        try:
            shutil.copytree(logs, report / "logs")
        except OSError as error:  # raised, it would hide how the run ended
            log(_logger, "logs_not_kept", logging.WARNING, directory=report / "logs", error=error)


def _is_setting(name: str) -> bool:
    return name.startswith("SAMSTREAM_") and "__" in name

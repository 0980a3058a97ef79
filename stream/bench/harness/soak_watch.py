"""Watches a system while it works, and restarts its processes at given moments."""

import math
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from stream.bench.harness.probe import disk_megabytes, read_metric, read_process
from stream.kafka.reader import TopicReader
from stream.local.system import System
from stream.schema.update_headers import read_update_headers

_LAG = "samstream_lag_records"
_UPDATES_S = 0.2


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is watched: its command, the name of its process, and where it serves its metrics (HOST:PORT)."""

    command: str
    process: str
    metrics: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured at a moment, in seconds since the Unix epoch: measure → value, NaN where there was none."""

    at: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Restart:
    """So many seconds from the start, a job gets a signal, and is started again when it has ended."""

    seconds: float
    job: Job
    signal: signal.Signals


class Restarts:
    """Restarts processes at their moments.

    The thread that made it calls `check`: a child is killed when the thread that has started it ends.

    Args:
        system: runs.
        planned: what is restarted, in the order of time.
    """

    def __init__(self, system: System, planned: Sequence[Restart]) -> None:
        self._system = system
        self._planned = list(planned)
        self._ending: dict[Job, subprocess.Popen[bytes]] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what was to end and has not."""
        for process in self._ending.values():
            process.kill()
            process.wait()

    def check(self) -> None:
        """Do what is due, without waiting.

        Raises:
            BrokerError, ChildDiedError: when something has ended that was not to end.
        """
        self._system.check()
        processes = self._system.processes
        for job, process in list(self._ending.items()):
            if process.poll() is not None:
                processes.start(job.process, job.command)
                del self._ending[job]
        while self._planned and self._planned[0].seconds <= time.monotonic() - self._began:
            due = self._planned.pop(0)
            self._ending[due.job] = process = processes.release(due.job.process)
            process.send_signal(due.signal)


class Watch:
    """Reads a system every few seconds in a thread of its own.

    Args:
        system: runs.
        jobs: are watched.
        interval_s: seconds between two readings.
    """

    def __init__(self, system: System, jobs: Sequence[Job], *, interval_s: float) -> None:
        self._system = system
        self._jobs = jobs
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._kind = ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.readings: list[Reading] = []
        """In the order of time."""

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; raises what went wrong in the thread."""
        self._stop.set()
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            with closing(
                TopicReader(self._system.settings.kafka, [self._system.topics.model_updates], on_missing="skip")
            ) as updates:
                while not self._stop.is_set():
                    self._read(updates)
        except Exception as error:  # the thread that waits raises it
            self._failure = error

    def _read(self, updates: TopicReader) -> None:
        """Count the deltas of an interval, and then read all else."""
        until = time.monotonic() + self._interval_s
        deltas = size = 0
        while (left := until - time.monotonic()) > 0 and not self._stop.is_set():
            for message in updates.read(min(left, _UPDATES_S)):
                if announced := read_update_headers(message.headers()):
                    self._kind = announced.kind
                    deltas += announced.kind == "delta"
                if self._kind == "delta":  # further records of an update have no headers
                    size += len(message.value() or b"")
        values = {"update": size / deltas / 1000 if deltas else math.nan}
        for job in self._jobs:
            try:
                pid = self._system.processes.pid(job.process)
            except KeyError:  # it is being restarted
                pid = None
            values |= self._process(job.command, pid)
            lag = read_metric(job.metrics, _LAG)
            values[f"lag of the {job.command}"] = math.nan if lag is None else lag
        broker = self._system.broker.process
        values |= self._process("broker", None if broker is None else broker.pid)
        settings = self._system.settings
        state, trainer = Path(settings.state.directory), Path(settings.trainer.directory)
        values["disk of the worker"] = disk_megabytes([state])
        values["disk of the trainer"] = disk_megabytes([trainer])
        values["disk of the broker"] = disk_megabytes([state.parent / "broker"]) if broker else math.nan
        self.readings.append(Reading(time.time(), values))

    def _process(self, name: str, pid: int | None) -> dict[str, float]:
        found = None if pid is None else read_process(pid)
        parts = (math.nan,) * 3 if found is None else (found.memory, found.descriptors, found.threads)
        kinds = ("memory", "descriptors", "threads")
        return {f"{kind} of the {name}": float(value) for kind, value in zip(kinds, parts, strict=True)}

"""Jobs and commands as forks of one process that has imported them: each start saves up to 2 s of a core."""

import multiprocessing.forkserver
import multiprocessing.process
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import cast

from stream.local.processes import kill_with_parent
from stream.local.system import Processes

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("stream.cli.main", "stream.worker.worker", "stream.trainer.run", "stream.monitor.run"),
        *("stream.gateway.web.server", "stream.report.writer", "stream.simulation.traffic", "stream.replay.report"),
        "torch._dynamo",  # which torch imports with the first optimiser
    ]
)
"""What cannot be imported, for want of an extra, is left out."""
_STARTING = threading.Lock()


class ForkedProcesses(Processes):
    """`Processes` whose jobs run `main` in a fork; what needs more than that is started as there."""

    def start(
        self,
        name: str,
        command: str,
        *arguments: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        optional: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start `samstream COMMAND ARGUMENTS`; what wants an environment of its own reads it when it is imported."""
        if environment or optional or command not in ("worker", "trainer", "monitor", "gateway"):
            return super().start(name, command, *arguments, environment=environment, optional=optional)
        words = [command, "--config", str(self._settings), *arguments]
        self.log(name).touch()
        process = _CONTEXT.Process(target=_work, args=(words, self.log(name)), daemon=True)
        _start(process)
        self._children[name] = cast("subprocess.Popen[bytes]", ForkedJob(process))
        return self._children[name]


class ForkedJob:
    """What tests want of `subprocess.Popen`, of a process that is no child of this one."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"job {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_forked(
    words: Sequence[str], environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `samstream WORDS` to its end in that environment, as `subprocess.run` does.

    Raises:
        subprocess.TimeoutExpired: when it takes longer than `timeout` seconds; it is killed then.
    """
    with tempfile.TemporaryDirectory() as directory:
        printed = Path(directory, "stdout"), Path(directory, "stderr")
        process = _CONTEXT.Process(target=_command, args=(list(words), dict(environment), *printed))
        _start(process)
        try:
            status = ForkedJob(process).wait(timeout)
        finally:
            process.kill()
            process.join()
        return subprocess.CompletedProcess(words, status, *(path.read_text() for path in printed))


def _start(process: BaseProcess) -> None:
    """Start a process whose exit status is read by the thread that waits for it, and by no other."""
    with _STARTING:
        process.start()
        # Each start polls all that are listed there, and a status can be read only once.
        multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]


def _command(words: list[str], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Be `samstream WORDS` in an environment of its own."""
    _die_with_the_tests()
    with Path(os.devnull).open("rb") as nothing, stdout.open("wb") as output, stderr.open("wb") as errors:
        for number, file in enumerate((nothing, output, errors)):
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # asked for before the fork, perhaps
    from stream.cli.main import main

    sys.exit(main(words))


def _die_with_the_tests() -> None:
    """End when the process that forked this one ends, which ends once no process has this descriptor any more."""
    kill_with_parent()
    alive = multiprocessing.forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]
    os.close(alive)


def _work(words: list[str], log: Path) -> None:
    """Be `samstream WORDS` in a session of its own, that says everything into its log and is nobody's heir."""
    _die_with_the_tests()
    os.setsid()
    with Path(os.devnull).open("rb") as nothing, log.open("ab") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for setting in [key for key in os.environ if key.startswith("SAMSTREAM_") and "__" in key]:
        del os.environ[setting]  # the settings file is complete
    from stream.cli.main import main

    sys.exit(main(words))

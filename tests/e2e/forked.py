"""Jobs as forks of one process that has imported them: each start saves 1.5 s of a core."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import cast

from stream.local.processes import kill_with_parent
from stream.local.system import Processes

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["stream.cli.main", "stream.worker.worker", "stream.trainer.run", "stream.monitor.run"])


class ForkedProcesses(Processes):
    """`Processes` whose workers, trainers and monitors run `main` in a fork; all else is started as there."""

    def start(
        self,
        name: str,
        command: str,
        *arguments: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        optional: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start `samstream COMMAND ARGUMENTS`; what wants an environment of its own reads it when it is imported."""
        if environment or optional or command not in ("worker", "trainer", "monitor"):
            return super().start(name, command, *arguments, environment=environment, optional=optional)
        words = [command, "--config", str(self._settings), *arguments]
        self.log(name).touch()
        process = _CONTEXT.Process(target=_work, args=(words, self.log(name)), daemon=True)
        process.start()
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


def _work(words: list[str], log: Path) -> None:
    """Be `samstream WORDS` in a session of its own, that says everything into its log and is nobody's heir."""
    kill_with_parent()
    os.setsid()
    with Path(os.devnull).open("rb") as nothing, log.open("ab") as output:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for setting in [key for key in os.environ if key.startswith("SAMSTREAM_") and "__" in key]:
        del os.environ[setting]  # the settings file is complete
    from stream.cli.main import main

    sys.exit(main(words))

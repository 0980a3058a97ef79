"""Child processes: they end with their parent; how they ended, and their logs, as text."""

import ctypes
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def kill_with_parent() -> None:
    """Have the kernel kill this child when the thread that started it ends, even by kill -9.

    For `subprocess.Popen(preexec_fn=…)`. Does nothing where there is no prctl, that is, outside Linux.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def describe_exit(code: int) -> str:
    """Say how a process ended, from its return code as `subprocess` gives it.

    >>> describe_exit(-9)
    'was killed by SIGKILL'
    """
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def log_tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, indented, to be quoted in an error."""
    return "\n".join(f"  {line}" for line in path.read_text(errors="replace").splitlines()[-lines:])

"""Child processes: they end with their parent, and how they ended is said."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Have the kernel kill this child when the thread that started it ends, even by kill -9.

    For `subprocess.Popen(preexec_fn=…)`. Does nothing where there is no prctl, that is, outside Linux.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def how_it_ended(code: int) -> str:
    """Say how a process ended, from its return code as `subprocess` gives it.

    >>> how_it_ended(-9)
    'was killed by SIGKILL'
    """
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

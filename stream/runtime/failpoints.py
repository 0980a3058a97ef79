"""Crashes on purpose for the fault campaign; without effect unless `SAMSTREAM_FAILPOINT` is set."""

import os
import signal

_WANTED, _, _TIMES = os.environ.get("SAMSTREAM_FAILPOINT", "").partition("@")
_left = int(_TIMES or 1)


def failpoint(name: str) -> None:
    """Kill -9 this process here, if `SAMSTREAM_FAILPOINT` is `name@n` and this is the n-th time."""
    global _left
    if name == _WANTED:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

"""Crashes and waits on purpose, for fault tests; without effect unless `SAMSTREAM_FAILPOINT` is set."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_WHERE, _, _WHEN = os.environ.get("SAMSTREAM_FAILPOINT", "").partition("@")
_RANK, _, _NAME = _WHERE.rpartition("/")
_WANTED = _NAME if _RANK in ("", os.environ.get("RANK", "")) else ""
_TIMES, _, _UNTIL = _WHEN.partition(":")
_WAIT_S = 0.02
_left = int(_TIMES or 1)


def failpoint(name: str, check: Callable[[], None] = lambda: None) -> None:
    """Kill -9 this process here, if `SAMSTREAM_FAILPOINT` is `name@n` and this is the n-th time.

    With `name@n:FILE` the thread waits instead, until that file exists or `check` raises. With `rank/name@n` this is
    for one of several ranks alone.
    """
    global _left
    if _WANTED and name == _WANTED:
        _left -= 1
        if _left == 0 and _UNTIL:
            while not Path(_UNTIL).exists():
                check()
                time.sleep(_WAIT_S)
        elif _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

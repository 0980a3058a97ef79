"""Crashes and delays on purpose, for fault tests; without effect unless `SAMSTREAM_FAILPOINT` is set."""

import os
import signal
import time

_WHERE, _, _WHEN = os.environ.get("SAMSTREAM_FAILPOINT", "").partition("@")
_RANK, _, _NAME = _WHERE.rpartition("/")
_WANTED = _NAME if _RANK in ("", os.environ.get("RANK", "")) else ""
_TIMES, _, _DELAY_S = _WHEN.partition(":")
_left = int(_TIMES or 1)


def failpoint(name: str) -> None:
    """Kill -9 this process here, if `SAMSTREAM_FAILPOINT` is `name@n` and this is the n-th time.

    With `name@n:seconds` the thread sleeps instead. With `rank/name@n` this is for one of several ranks alone.
    """
    global _left
    if _WANTED and name == _WANTED:
        _left -= 1
        if _left == 0 and _DELAY_S:
            time.sleep(float(_DELAY_S))
        elif _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

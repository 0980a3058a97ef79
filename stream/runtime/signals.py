"""Ctrl-C for commands that drive a system: remembered, since what is raised in a callback out of C may be swallowed."""

import signal
import threading

_heard = threading.Event()


def remember() -> None:
    """Have Ctrl-C raise KeyboardInterrupt, as always, and be remembered."""
    signal.signal(signal.SIGINT, _hear)


def heard() -> bool:
    """Say whether there was a Ctrl-C."""
    return _heard.is_set()


def check() -> None:
    """Come back to a Ctrl-C that was swallowed; for loops that call it a few times a second.

    Raises:
        KeyboardInterrupt: when there was one.
    """
    if _heard.is_set():
        raise KeyboardInterrupt


def _hear(_number: int, _frame: object) -> None:
    _heard.set()
    raise KeyboardInterrupt

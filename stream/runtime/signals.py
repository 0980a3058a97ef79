"""Signals: jobs end in order on SIGTERM or Ctrl-C, and commands that drive a system never lose a Ctrl-C.

A KeyboardInterrupt that is raised inside a callback from C (librdkafka, for one) may be swallowed, so Ctrl-C is also
recorded, and loops call `raise_if_interrupted`.
"""

import signal
import threading

_interrupted = threading.Event()


def stop_event() -> threading.Event:
    """Return an event that SIGTERM or Ctrl-C sets, so that a job can end in order; a second one ends it at once."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def catch_ctrl_c() -> None:
    """Have Ctrl-C raise KeyboardInterrupt, as always, and be recorded."""
    signal.signal(signal.SIGINT, _interrupt)


def was_interrupted() -> bool:
    """Return whether there was a Ctrl-C."""
    return _interrupted.is_set()


def raise_if_interrupted() -> None:
    """Raise again for a Ctrl-C that was swallowed; loops call it a few times a second.

    Raises:
        KeyboardInterrupt: when there was one.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _interrupt(_number: int, _frame: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt

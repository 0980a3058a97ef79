"""Ends a monitor that is told to stop and does not: Faust waits for its threads and for Kafka without a limit."""

import os
import sys
import threading
from collections.abc import Callable


class StopLimit:
    """Ends the process, with status 1, some time after it began to stop.

    Args:
        seconds: that time.
        last_words: returns what is said then.
    """

    def __init__(self, seconds: float, last_words: Callable[[], str]) -> None:
        self._last_words = last_words
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def begin(self) -> None:
        """Begin to count the time."""
        if self._timer.ident is None:
            self._timer.start()

    def cancel(self) -> None:
        """Let the process live: it has stopped what it had to stop."""
        self._timer.cancel()

    def _end(self) -> None:
        print(f"samstream monitor: {self._last_words()}", file=sys.stderr, flush=True)
        os._exit(1)

"""How often the same may be logged: once in an interval, and what is held back is counted."""

import threading
import time
from collections.abc import Callable, Hashable

INTERVAL_S = 30.0
_MOST_KEYS = 200


class LogLimit:
    """Lets one event of a key through in 30 s and counts those in between. Any thread may ask.

    It knows 200 keys at most: with more it forgets them all, and lets through what it would have held back.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[Hashable, tuple[float, int]] = {}

    def admit(self, key: Hashable, *, now: float | None = None) -> int | None:
        """Return how many of this key were held back since the last one; None to hold this one back as well.

        Args:
            key: what is the same.
            now: the clock's time, where the caller has it.
        """
        with self._lock:
            now = self._clock() if now is None else now
            known = self._keys.get(key)
            if known is not None and now - known[0] < INTERVAL_S:
                self._keys[key] = known[0], known[1] + 1
                return None
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            self._keys[key] = now, 0
            return known[1] if known else 0

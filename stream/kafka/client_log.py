"""librdkafka's own log lines as structured ones; what it repeats comes every 30 s, with a count."""

import logging
import re
import threading
import time
from collections.abc import Callable

from stream.runtime.logs import log

_logger = logging.getLogger("samstream.kafka")

_CONNECTION = {"FAIL", "ERROR", "REQTMOUT"}
"""Its facilities whose lines say again what its `error_cb` is told, which `Outage` tells."""
# One [kafka] section serves producers and consumers: each ignores some of the other's properties. Nor is it worth a
# warning what a broker answers while it starts.
_NOISE = ("will be ignored by this", "Coordinator load in progress: retrying")
_AGAIN_S = 30.0
_MOST_KINDS = 200


class RepeatedLines:
    """Lets a line through once in 30 s and counts those in between, whatever numbers they contain.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}

    def admit(self, line: str) -> int | None:
        """Return how many of its kind were held back before this line; None to hold it back as well."""
        kind = re.sub(r"\d+", "0", line)
        with self._lock:
            now = self._clock()
            told_at, held = self._kinds.get(kind, (-_AGAIN_S, 0))
            if now - told_at < _AGAIN_S:
                self._kinds[kind] = told_at, held + 1
                return None
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            self._kinds[kind] = now, 0
            return held


_repeated = RepeatedLines()
"""Of this process: its clients say the same."""


def log_client_line(facility: str, level: int, text: str, *, repeated: RepeatedLines = _repeated) -> None:
    """Write what a Kafka client has to say as one event, unless the same was written within 30 s."""
    if (held := repeated.admit(f"{facility} {text}")) is not None:
        more = {"repeated": held} if held else {}
        log(_logger, "kafka_client", level, facility=facility, message=text, **more)


class ClientLog:
    """What librdkafka's Python client takes as its `logger`."""

    def log(self, level: int, _format: str, facility: str, _client: str, text: str) -> None:
        """Take a line of a client: `[thrd:NAME]: TEXT`."""
        if facility not in _CONNECTION and not any(noise in text for noise in _NOISE):
            log_client_line(facility, level, re.sub(r"^\[thrd:[^]]*\]: ", "", " ".join(text.split())))

"""librdkafka's own log lines as structured ones; what it repeats comes every 30 s, with a count."""

import logging
import re

from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.kafka")

_CONNECTION = {"FAIL", "ERROR", "REQTMOUT"}
"""Its facilities whose lines say again what its `error_cb` is told, which `Outage` tells."""
# One [kafka] section serves producers and consumers: each ignores some of the other's properties. Nor is it worth a
# warning what a broker answers while it starts.
_NOISE = ("will be ignored by this", "Coordinator load in progress: retrying")

_limit = LogLimit()
"""Of this process: its clients say the same."""


def log_client_line(facility: str, level: int, text: str, *, limit: LogLimit = _limit) -> None:
    """Write what a Kafka client has to say as one event, unless the same but for numbers was written within 30 s."""
    if (held := limit.admit(re.sub(r"\d+", "0", f"{facility} {text}"))) is not None:
        more = {"repeated": held} if held else {}
        log(_logger, "kafka_client", level, facility=facility, message=text, **more)


class ClientLog:
    """What librdkafka's Python client takes as its `logger`."""

    def log(self, level: int, _format: str, facility: str, _client: str, text: str) -> None:
        """Take a line of a client: `[thrd:NAME]: TEXT`."""
        if facility not in _CONNECTION and not any(noise in text for noise in _NOISE):
            log_client_line(facility, level, re.sub(r"^\[thrd:[^]]*\]: ", "", " ".join(text.split())))

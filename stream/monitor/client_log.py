"""What Faust and its Kafka client log, as the other jobs have it: trouble with Kafka told once, the rest as events."""

import logging
import re
from collections.abc import Mapping

from stream.kafka.client_log import log_client_line
from stream.kafka.outage import Outage, outage_of

_NAMES = ("aiokafka", "asyncio", "faust", "mode", "stream.monitor")
"""Loggers of Faust and its client; of `stream.monitor` those that Faust makes for its classes and agents there."""
_CONNECTION = re.compile(
    r"Unable connect|Unable to (update|request) metadata|Failed fetch messages|Coordinator Request failed"
    r"|[Mm]arking (the )?coordinator|Heartbeat (send|session)|Heartbeat failed for group .* not valid"
    r"|NodeNotReady|KafkaConnectionError|Connect call failed|RequestTimedOut"
)
_REFUSED = re.compile(r"Authenti|[Aa]uthoriz|SSL|certificate")


class FaustLog(logging.Handler):
    """Takes the records of Faust's loggers.

    Args:
        outage: gets the trouble with Kafka.
    """

    def __init__(self, outage: Outage) -> None:
        super().__init__()
        self._outage = outage

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one of ours."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text.splitlines()[0]}: {record.exc_info[1]!r}"
        if record.name.startswith("aiokafka") and _CONNECTION.search(text) and not _REFUSED.search(text):
            self._outage.fail(text)
        else:
            log_client_line(record.name, record.levelno, " ".join(text.split()))


def take_over_logs(kafka: Mapping[str, str]) -> None:
    """Let all that Faust and aiokafka say from `WARNING` on go through `FaustLog`."""
    handler = FaustLog(outage_of(kafka))
    for name in _NAMES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers, logger.propagate = [handler], False
    # It would say whenever a batch of users goes to the changelog, which is then waited for.
    logging.getLogger("faust.transport.producer").setLevel(logging.ERROR)

"""Follows `experiment-shares`: read to its end before anybody is assigned, then as shares come."""

import logging
import time
from collections.abc import Callable, Mapping

from stream.kafka.follower import TopicFollower
from stream.kafka.reader import TopicReader
from stream.runtime.logs import log
from stream.schema.events import DECODE_ERRORS
from stream.schema.record import Record
from stream.schema.shares import SharesStep, decode_shares

_logger = logging.getLogger("samstream.shares")


class SharesFeed(TopicFollower):
    """Follows the shares that a bandit chooses.

    Args:
        kafka: librdkafka properties.
        topic: `experiment-shares`.
        add: takes a step and the Kafka timestamp (ms) of its record; returns whether it counts.

    Raises:
        KafkaClientError: when Kafka does not answer, or refuses this client.
        TopicError: when the topic is missing, or may not be described.
    """

    def __init__(self, kafka: Mapping[str, str], topic: str, add: Callable[[SharesStep, int], bool]) -> None:
        self._add = add
        reader = TopicReader(kafka, [topic], from_beginning=True, on_missing="skip")
        super().__init__(reader, self._add_record, name="shares")

    def _add_record(self, record: Record) -> None:
        try:
            step = decode_shares(record.value or b"")
        except DECODE_ERRORS as error:
            log(_logger, "shares_refused", logging.ERROR, offset=record.offset, reason=error)
            return
        if self._add(step, record.timestamp) and self.at_end:
            late_ms = round(1000 * time.time()) - step.begin
            shares = ",".join(f"{arm}:{share:.4f}" for arm, share in step.shares.items())
            if late_ms <= 0:
                log(_logger, "shares", begin=step.begin, shares=shares)
            else:  # answers of the time in between name the shares that they were given by
                log(_logger, "shares_late", logging.WARNING, begin=step.begin, shares=shares, late_ms=late_ms)

"""Follows `experiment-shares`: read to its end before anybody is assigned, then as shares come."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from stream.kafka.clients import to_record
from stream.kafka.reader import TopicReader
from stream.runtime.logs import log
from stream.schema.events import DECODE_ERRORS
from stream.schema.record import Record
from stream.schema.shares import SharesStep, decode_shares

_logger = logging.getLogger("samstream.shares")

_READ_S = 0.2


class SharesFeed:
    """Reads the shares that a bandit chooses, in a thread of its own.

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
        self._reader = TopicReader(kafka, [topic], from_beginning=True, on_missing="skip")
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shares", daemon=True)

    def start(self) -> None:
        """Read to the end, then follow in the thread.

        Raises:
            KafkaClientError: when the topic cannot be read to its end.
        """
        for messages in self._reader.read_to_end():
            for message in messages:
                self._take(to_record(message), live=False)
        self._thread.start()

    def check(self) -> None:
        """Raise what has ended the reading.

        Raises:
            StreamError: when the topic can no longer be read.
        """
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for message in self._reader.read(_READ_S):
                    self._take(to_record(message), live=True)
        except Exception as error:  # the job's own thread raises it
            self._failure = error

    def _take(self, record: Record, *, live: bool) -> None:
        try:
            step = decode_shares(record.value or b"")
        except DECODE_ERRORS as error:
            log(_logger, "shares_refused", logging.ERROR, offset=record.offset, reason=error)
            return
        if self._add(step, record.timestamp) and live:
            late_ms = round(1000 * time.time()) - step.begin
            shares = ",".join(f"{arm}:{share:.4f}" for arm, share in step.shares.items())
            if late_ms <= 0:
                log(_logger, "shares", begin=step.begin, shares=shares)
            else:  # answers of the time in between name the shares that they were given by
                log(_logger, "shares_late", logging.WARNING, begin=step.begin, shares=shares, late_ms=late_ms)

"""Reads the scores of a gateway's partitions in a thread of its own."""

import threading
from collections.abc import Callable, Collection, Mapping

from confluent_kafka import Message

from stream.kafka.reader import TopicReader
from stream.runtime.closing import Resources
from stream.runtime.health import Health

_READ_S = 0.2


class ScoreFeed:
    """Reads `scores` from a moment in the past on, so that a gateway that was restarted knows what was answered.

    Args:
        kafka: librdkafka properties.
        topic: the topic of the scores.
        partitions: the numbers to read.
        since_ms: where to begin, ms since the epoch.
        take: is called in the feed's thread with the values of some records.
        fail: is called there with what ends the feed.
        health: gets the progress.
    """

    def __init__(
        self,
        kafka: Mapping[str, str],
        topic: str,
        partitions: Collection[int],
        *,
        since_ms: int,
        take: Callable[[list[bytes]], None],
        fail: Callable[[Exception], None],
        health: Health,
    ) -> None:
        self._take = take
        self._fail = fail
        self._health = health
        self._stop = threading.Event()
        self._done = 0
        self._reader = TopicReader(kafka, [topic], since_ms=since_ms, on_missing="skip", only=partitions)
        try:
            for messages in self._reader.read_to_end():
                self._put(messages)
        except BaseException:
            self._reader.close()
            raise
        self._thread = threading.Thread(target=self._run, name="gateway-scores", daemon=True)

    def start(self) -> None:
        """Go on reading until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._reader.close()

    def _run(self) -> None:
        try:
            with Resources() as resources:
                resources.add(self._reader)
                while not self._stop.is_set():
                    self._put(self._reader.read(_READ_S))
        except Exception as error:
            self._fail(error)

    def _put(self, messages: list[Message]) -> None:
        if messages:
            self._done += len(messages)
            self._take([message.value() or b"" for message in messages])
        self._health.report(done=self._done, lag=0 if not messages else self._reader.lag())

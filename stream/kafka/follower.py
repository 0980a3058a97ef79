"""Reads topics to their ends before work begins, then follows them in a thread of its own."""

import threading
from collections.abc import Callable

from stream.kafka.clients import to_record
from stream.kafka.reader import TopicReader
from stream.schema.record import Record

_READ_S = 0.2


class TopicFollower:
    """Hands on the records of a reader in their order.

    Args:
        reader: belongs to this from now on.
        take: gets each record: what was there at the start in the thread of who calls `start`, the rest in the own one.
        name: of the thread.
        after_read: called in the thread a few times a second, after what was read was taken; and once more at the end.

    Attributes:
        at_end: whether all that was there at the start was taken.
    """

    def __init__(
        self,
        reader: TopicReader,
        take: Callable[[Record], None],
        *,
        name: str,
        after_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._reader, self._take, self._after_read = reader, take, after_read
        self.at_end = False
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Read to the end, then follow in the thread.

        Raises:
            KafkaClientError: when the topics cannot be read to their ends.
        """
        self.read_to_end()
        self._thread.start()

    def read_to_end(self) -> None:
        """Take what is there, without following.

        Raises:
            KafkaClientError: when the topics cannot be read to their ends.
        """
        for messages in self._reader.read_to_end():
            for message in messages:
                self._take(to_record(message))
        self.at_end = True

    def check(self) -> None:
        """Raise what has ended the reading.

        Raises:
            StreamError: when the topics can no longer be read.
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
                    self._take(to_record(message))
                self._after_read()
            self._after_read()
        except Exception as error:  # the job's own thread raises it
            self._failure = error

"""Follows `erasures` for a job: read to the end before anything is folded, then as they come; says what is done."""

import logging
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.kafka.clients import consumer
from stream.kafka.follower import TopicFollower
from stream.kafka.identity import IdentityClient
from stream.kafka.reader import TopicReader
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.schema.erasures import Erased, Erasures, Void, decode_erasure
from stream.schema.events import DECODE_ERRORS
from stream.schema.record import Record
from stream.schema.topics import Topics

_logger = logging.getLogger("samstream.erasures")


def read_erasures(kafka: Mapping[str, str], topics: Topics) -> Erasures:
    """Return the erasures as they are now, for whoever reads topics once and keeps nothing of users.

    Raises:
        KafkaClientError: when Kafka does not answer, or `erasures` cannot be read to its end.
        TopicError: when a topic is missing, or may not be described.
    """
    erasures = Erasures()
    feed = ErasureFeed(kafka, topics, "", erasures)
    try:
        feed.read_to_end()
    finally:
        feed.close()
    return erasures


class ErasureFeed(TopicFollower):
    """Reads `erasures`, all partitions, in a thread of its own.

    What a job has done is told to Kafka as the committed offset of a group of that job's: so `samstream erase --wait`,
    and every tool that shows the lag of groups, sees it. The group has no members, and nobody reads on from there.

    Args:
        kafka: librdkafka properties.
        topics: the topic names.
        group: of the job (`settings.erasure_groups`).
        erasures: gets what is read.

    Raises:
        KafkaClientError: when Kafka does not answer, or refuses this client.
        TopicError: when a topic is missing, or may not be described.
    """

    def __init__(self, kafka: Mapping[str, str], topics: Topics, group: str, erasures: Erasures) -> None:
        self._topics = topics
        self._erasures = erasures
        self._logs = IdentityClient(kafka).identify([topics.behaviors, topics.clicks])
        self._kafka, self._group = kafka, group
        self._committer: Consumer | None = None
        self._done: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._log_limit = LogLimit()
        self.lag = 0
        """Erasures that wait, as far as the client has heard."""
        # A compacted topic has gaps, and what was removed from it was replaced.
        reader = TopicReader(kafka, [topics.erasures], from_beginning=True, on_missing="skip")
        super().__init__(reader, self._add, name="erasures", after_read=self._after)

    def acknowledge(self, done: Mapping[int, int]) -> None:
        """Say how far all is done: partition number → the offset of `erasures` below which nothing is left to erase."""
        self._done = self._done | {number: offset for number, offset in done.items() if offset}

    def close(self) -> None:
        """Tell what is done, and end."""
        super().close()
        if self._committer is not None:
            self._committer.close()

    def _after(self) -> None:
        self.lag = self._reader.lag()
        self._tell()

    def _add(self, record: Record) -> None:
        try:
            found = decode_erasure(record.value or b"")
        except DECODE_ERRORS as error:
            log(
                _logger,
                "erasure_refused",
                logging.ERROR,
                partition=record.partition,
                offset=record.offset,
                reason=error,
                remedy="erase the user with `samstream erase`, which writes what is to be here",
            )
            return
        behaviors, clicks = self._logs[self._topics.behaviors], self._logs[self._topics.clicks]
        void = Void(found.behaviors.within(behaviors), found.clicks.within(clicks))
        self._erasures.of(record.partition).add(Erased(found.user, void, found.at, record.offset))

    def _tell(self) -> None:
        done = self._done
        if new := {number: offset for number, offset in done.items() if self._told.get(number) != offset}:
            offsets = [TopicPartition(self._topics.erasures, number, offset) for number, offset in new.items()]
            if self._committer is None:  # most installations never erase anybody
                self._committer = consumer(self._kafka, {"group.id": self._group})
            try:
                self._committer.commit(offsets=offsets, asynchronous=False)
                self._told |= new
            except KafkaException as error:
                if self._log_limit.admit("acknowledge") is not None:
                    log(_logger, "erasures_not_told", logging.WARNING, error=error.args[0].str())

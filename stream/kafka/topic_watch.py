"""Sees when a topic that a job needs is deleted: neither librdkafka's consumers nor its producers say so reliably."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from stream.kafka.clients import admin
from stream.kafka.connection import ConnectionHealth
from stream.kafka.outage import outage_of
from stream.runtime.logs import log

_logger = logging.getLogger("samstream.kafka")

GRACE_S = 30.0
"""How long a topic must be unknown to a Kafka that answers: while brokers start, it may be for a moment."""
_ASK_EVERY_S = 5.0
_ANSWER_S = 5.0


class MissingTopics:
    """Decides from what Kafka says which topics are gone, and whether it is gone itself.

    Args:
        grace_s: how long a topic must have been unknown in every answer, without a failed question between.
        clock: monotonic, seconds.
    """

    def __init__(self, *, grace_s: float = GRACE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace_s = grace_s
        self._clock = clock
        self._since: dict[str, float] = {}
        self._answered_at = clock()
        self.gone: set[str] = set()
        """Topics that are gone."""

    def heard(self, unknown: Collection[str] | None) -> None:
        """Take note of the topics that Kafka does not know; None when it did not answer."""
        if unknown is None:
            self._since.clear()
            return
        now = self._answered_at = self._clock()
        self._since = {topic: self._since.get(topic, now) for topic in unknown}
        gone = {topic for topic, since in self._since.items() if topic in self.gone or now - since >= self._grace_s}
        for topic in sorted(gone - self.gone):
            log(_logger, "topic_gone", logging.ERROR, topic=topic, unknown_for_s=round(now - self._since[topic]))
        for topic in sorted(self.gone - gone):
            log(_logger, "topic_back", logging.WARNING, topic=topic)
        self.gone = gone

    @property
    def silence(self) -> str:
        """Says, for a person, that Kafka has not answered for as long as that; empty while it does."""
        silent_s = self._clock() - self._answered_at
        return f"Kafka has not answered for {silent_s:.0f} s" if silent_s >= self._grace_s else ""

    @property
    def trouble(self) -> str:
        """Says, for a person, which topics are gone; empty when none is."""
        if not self.gone:
            return ""
        return f"Kafka has no topic {', '.join(sorted(self.gone))} any more: it was deleted while this job used it"


class TopicWatch:
    """Asks Kafka for some topics every few seconds, in a thread of its own, until it is closed.

    That Kafka does not answer counts as trouble with it, so that a job with nothing to do notices, too.

    Args:
        kafka: librdkafka properties.
        topics: names; they exist when the watch begins.
        report: called every few seconds, in the watch's thread: with `topics` and which of them are gone, and with
            `kafka` and for how long it has not answered; the text is empty when nothing is wrong.

    Raises:
        SettingsError: when librdkafka does not take the properties.
    """

    def __init__(self, kafka: Mapping[str, str], topics: Collection[str], report: Callable[[str, str], None]) -> None:
        self._topics = list(topics)
        self._report = report
        self._outage = outage_of(kafka)
        self._kafka = kafka
        self._client = admin(kafka, ConnectionHealth(kafka, log_errors=False))
        self._missing = MissingTopics()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="topic-watch", daemon=True)
        self._thread.start()

    def add(self, *topics: str) -> None:
        """Ask for other topics, too, which exist by now."""
        self._topics = [*self._topics, *topics]

    def close(self) -> None:
        """Stop asking; does not wait for an answer that is under way."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(_ASK_EVERY_S):
            unknown = unknown_topics(self._client, self._topics)
            self._client.poll(0)
            if unknown is None:
                self._outage.fail(f"no answer within {_ANSWER_S:.0f} s")
                # It may have forgotten all brokers.
                self._client = admin(self._kafka, ConnectionHealth(self._kafka, log_errors=False))
            else:
                self._outage.answer()
            self._missing.heard(unknown)
            if not self._stop.is_set():
                self._report("topics", self._missing.trouble)
                self._report("kafka", self._missing.silence)


def unknown_topics(client: AdminClient, topics: Collection[str]) -> list[str] | None:
    """Return those of some topics that Kafka does not know; None when it does not answer.

    A topic that this user may not describe counts as known.
    """
    try:
        # While no broker can be reached, librdkafka keeps a core busy with what follows (seen in 2.16).
        client.list_topics(timeout=_ANSWER_S)
    except KafkaException:
        return None
    futures = client.describe_topics(TopicCollection(list(topics)), request_timeout=_ANSWER_S)
    unknown = []
    for topic, future in futures.items():
        try:
            future.result()
        except KafkaException as problem:
            error: KafkaError = problem.args[0]
            if error.code() < 0:  # librdkafka's own: it has no answer
                return None
            if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                unknown.append(topic)
    return unknown

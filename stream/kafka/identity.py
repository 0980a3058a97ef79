"""Asks Kafka which logs its topics are now, and whether a kept offset still belongs to one."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ListOffsetsResultInfo,
    OffsetSpec,
    TopicDescription,
)

from stream.errors import KafkaSilentError, TopicError
from stream.kafka.clients import admin, list_topics
from stream.kafka.connection import ConnectionHealth
from stream.kafka.offsets import offset_for_time, watermarks
from stream.kafka.outage import outage_of
from stream.schema.position import Difference, LogIdentity, Origin, kept_origin

_WAIT_S = 30.0
_ANSWER_S = 5.0
_RENEW_S = 8.0
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""The id of a broker that has no topic ids: 16 zero bytes in base64."""


class Answers(NamedTuple):
    """What Kafka has answered.

    Attributes:
        logs: topic → which log it is.
        offsets: topic and partition → the first offset from the time on that was asked for.
    """

    logs: dict[str, LogIdentity]
    offsets: dict[tuple[str, int], int]


class IdentityClient:
    """Asks one cluster for the identities of topics.

    Args:
        kafka: librdkafka properties.
    """

    def __init__(self, kafka: Mapping[str, str]) -> None:
        self._kafka = kafka
        self.renew()
        self._asked: dict[str, Future[TopicDescription]] = {}
        self._asked_offsets: dict[tuple[str, int], Future[ListOffsetsResultInfo]] = {}
        self._cluster = ""

    def renew(self) -> None:
        """Ask with another client from now on: one that does not answer may have forgotten all brokers."""
        self._health = ConnectionHealth(self._kafka, log_errors=False)
        self._client = admin(self._kafka, self._health)

    def identify(self, topics: Iterable[str], *, wait_s: float = _WAIT_S) -> dict[str, LogIdentity]:
        """Return topic → which log it is now.

        Raises:
            TopicError: when a topic does not exist, or may not be described.
            KafkaClientError: when Kafka does not answer within `wait_s`, or refuses this client.
        """
        names = list(topics)
        deadline = time.monotonic() + wait_s
        while True:
            self._await_kafka(deadline)
            try:
                self.ask(names)
                return {name: self._described(future.result()) for name, future in self._asked.items()}
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise TopicError(f"{', '.join(names)}: {error.args[0].str()}") from None
                time.sleep(0.2)
            finally:
                self._asked = {}

    def _await_kafka(self, deadline: float) -> None:
        """Wait for a Kafka that starts, and hear who its controller is: what is asked next goes there."""
        try:
            list_topics(self._client, self._health, min(deadline, time.monotonic() + _RENEW_S))
        except KafkaSilentError:
            self.renew()
            list_topics(self._client, self._health, deadline)

    def ask(self, topics: Iterable[str], times: Mapping[tuple[str, int], int] = MappingProxyType({})) -> None:
        """Send a question; `answers` has the answers later.

        Args:
            topics: their logs are asked for.
            times: topic and partition → a time (ms since the epoch): the first offset from then on is asked for.
        """
        if not self._cluster:
            self._cluster = self._client.list_topics(timeout=_ANSWER_S).cluster_id or ""
        self._asked = self._client.describe_topics(TopicCollection(list(topics)), request_timeout=_ANSWER_S)
        asked = {TopicPartition(*where): OffsetSpec.for_timestamp(ms) for where, ms in times.items()}
        found = self._client.list_offsets(asked, request_timeout=_ANSWER_S) if asked else {}
        self._asked_offsets = {(where.topic, where.partition): future for where, future in found.items()}

    @property
    def asking(self) -> bool:
        """Whether a question was sent whose answers were not taken."""
        return bool(self._asked)

    def answers(self) -> Answers | None:
        """Return the answers to `ask` as far as Kafka knows any; None while some are missing."""
        futures: list[Future[Any]] = [*self._asked.values(), *self._asked_offsets.values()]
        if not all(future.done() for future in futures):
            return None
        logs, self._asked = self._asked, {}
        offsets, self._asked_offsets = self._asked_offsets, {}
        return Answers(
            {name: self._described(future.result()) for name, future in logs.items() if future.exception() is None},
            {
                where: future.result().offset
                for where, future in offsets.items()
                if future.exception() is None and future.result().offset >= 0
            },
        )

    def _described(self, found: TopicDescription) -> LogIdentity:
        topic_id = str(found.topic_id)
        return LogIdentity(self._cluster, found.name, "" if topic_id == _NO_ID else topic_id, len(found.partitions))


def compare(consumer: Consumer, origin: Origin, now: LogIdentity, number: int, offset: int) -> Difference:
    """Return how a partition differs from the one that an offset was kept of.

    Where the broker has no topic ids, an offset beyond the end, or one whose last record's time has passed before
    earlier offsets, is taken for one of a topic that was recreated.

    Args:
        consumer: asks for offsets; any consumer of the cluster.
        origin: kept with the offset.
        now: which log the topic is now.
        number: the partition.
        offset: the next offset to be read.

    Raises:
        KafkaClientError: when Kafka does not answer.
    """
    if difference := origin.difference(now):
        return difference
    by_id = bool(origin.log.topic_id and now.topic_id)
    _, end = watermarks(consumer, now.topic, number)
    if offset > end:
        return "end" if by_id else "id"
    if not by_id and origin.timestamp >= 0:
        # Records up to the offset are not younger than the last one, so the first younger one lies behind it.
        younger = offset_for_time(consumer, now.topic, number, origin.timestamp + 1, end)
        if younger < offset:
            return "id"
    return ""


def compare_state(
    consumer: Consumer, now: LogIdentity, number: int, offsets: Mapping[str, int], origins: Mapping[str, str]
) -> Difference:
    """Return how a topic differs from the one that a kept state has read.

    Args:
        consumer: asks for offsets; any consumer of the cluster.
        now: which log the topic is now.
        number: the partition number.
        offsets: topic → offset, as the state has them.
        origins: topic → what that offset is an offset of, as the state has it.

    Raises:
        KafkaClientError: when Kafka does not answer.
    """
    return compare(consumer, kept_origin(origins.get(now.topic), now), now, number, offsets.get(now.topic, 0))


def identify_if_there(kafka: Mapping[str, str], topic: str) -> LogIdentity | None:
    """Return which log a topic is now; None when there is none, which some brokers would make when asked for it.

    Raises:
        KafkaClientError: when Kafka does not answer, or refuses this client.
    """
    health = ConnectionHealth(kafka, log_errors=False)
    if topic not in list_topics(admin(kafka, health), health, time.monotonic() + _WAIT_S):
        return None
    return IdentityClient(kafka).identify([topic])[topic]


Position = tuple[str, int, int, int]
"""Topic, partition, the next offset to be read, and the Kafka timestamp (ms) of the record before it, −1 if unknown."""


class LogWatch:
    """Notices, while a job runs, that a topic which it reads was recreated or has got more partitions.

    Where the broker has no topic ids, it is the records that tell: the first ones that a job has read do not get older
    than others at lower offsets.

    Args:
        kafka: librdkafka properties.
        interval_s: how often Kafka is asked.
    """

    def __init__(self, kafka: Mapping[str, str], *, interval_s: float = 5.0) -> None:
        self._client = IdentityClient(kafka)
        self._outage = outage_of(kafka)
        self._interval_s = interval_s
        self._next = 0.0
        self._first: dict[tuple[str, int], tuple[int, int]] = {}
        """Topic and partition → the first (offset, timestamp) that the job said; only where there are no topic ids."""
        self.logs: dict[str, LogIdentity] = {}
        """Topic → which log it was when `begin` was called."""

    def begin(self, topics: Iterable[str]) -> dict[str, LogIdentity]:
        """Ask which logs some topics are now, and watch them from now on.

        Raises:
            TopicError: when a topic does not exist, or may not be described.
            KafkaClientError: when Kafka does not answer, or refuses this client.
        """
        self.logs = self._client.identify(topics)
        self._first = {}
        self._next = time.monotonic() + self._interval_s
        return self.logs

    def check(self, now: float, positions: Callable[[], Iterable[Position]]) -> tuple[str, Difference] | None:
        """Return a topic that differs from what it was, and how; None while there is none. Does not wait for Kafka.

        Args:
            now: a monotonic clock, seconds.
            positions: where the job stands; only asked for where the broker has no topic ids.
        """
        if not all(log.topic_id for log in self.logs.values()):
            for topic, number, offset, timestamp in positions():
                if timestamp >= 0:
                    self._first.setdefault((topic, number), (offset, timestamp))
        if self._client.asking:
            found = self._client.answers()
            if found is not None and not found.logs:
                self._client.renew()
            for topic, log in (found.logs if found else {}).items():
                if difference := Origin(self.logs[topic]).difference(log):
                    return topic, difference
            for where, younger in (found.offsets if found else {}).items():
                if younger < self._first[where][0]:
                    return where[0], "id"
        # While no broker can be reached, librdkafka keeps a core busy with what an admin client asks (seen in 2.16).
        elif self.logs and now >= self._next and not self._outage.unanswered:
            self._next = now + self._interval_s
            self._client.ask(self.logs, {where: timestamp + 1 for where, (_, timestamp) in self._first.items()})
        return None

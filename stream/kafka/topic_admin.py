"""Creates the topics and checks those that exist; reads their partition counts and limits."""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from stream.errors import TopicError
from stream.kafka.clients import admin as new_admin
from stream.kafka.clients import list_topics
from stream.kafka.connection import ConnectionHealth
from stream.kafka.topic_rules import Finding, Needs, check_settings, worst_first
from stream.runtime.logs import log
from stream.schema.topics import Topics

_logger = logging.getLogger("samstream.kafka")

_DEADLINE_S = 30.0
_RETRY_S = 0.2
_NEEDS = Needs()


@dataclass(frozen=True, slots=True)
class Report:
    """What `ensure` did and `inspect` found.

    Attributes:
        created: names of topics.
        existing: names of those that were there.
        partitions: of those keyed by user.
        findings: what is to be said of the settings of those that were there, the worst first.
    """

    created: list[str]
    existing: list[str]
    partitions: int
    findings: list[Finding]


def ensure(
    kafka: Mapping[str, str],
    topics: Topics,
    *,
    partitions: int,
    replication: int,
    needs: Needs = _NEEDS,
    deadline_s: float = _DEADLINE_S,
) -> Report:
    """Create the topics that are missing and check the others; an existing topic is never changed.

    What is wrong with the settings of an existing topic (`topic_rules`) is reported only. A wrong
    partition count is an error, because the users of one partition would then lie in several.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        partitions: of each topic keyed by user.
        replication: replicas of what is created; -1 for the broker's default.
        needs: how long records must be kept.
        deadline_s: how long a broker may take to come up, and the topics to have leaders.

    Raises:
        TopicError: for every topic with another partition count; when a topic cannot be made, or has no leader.
        KafkaClientError: when Kafka cannot be reached, or refuses this client.
    """
    deadline = time.monotonic() + deadline_s
    admin = _Admin(kafka, deadline)
    wanted = {topic.name: topic for topic in topics}
    counts = {name: topic.partitions(partitions) for name, topic in wanted.items()}
    found = admin.partitions(wanted)
    _check(found, counts)
    created = admin.create(
        [
            NewTopic(name, counts[name], replication, config=dict(topic.config))
            for name, topic in wanted.items()
            if name not in found
        ]
    )
    # Another process may have made some of them at the same time, with other counts.
    _check(admin.partitions(wanted, whole=True), counts)
    existing = [name for name in wanted if name not in created]
    return Report(created, existing, partitions, admin.findings(topics, existing, needs))


def inspect(
    kafka: Mapping[str, str],
    topics: Topics,
    *,
    partitions: int,
    needs: Needs = _NEEDS,
    deadline_s: float = _DEADLINE_S,
) -> Report:
    """Find out whether all topics are there and co-partitioned, and what is to be said of their settings.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        partitions: of the settings; of another number, which is the one that holds, `ensure` says that it is wrong.
        needs: how long records must be kept.
        deadline_s: how long a broker may take to come up.

    Raises:
        KafkaClientError: when Kafka cannot be reached, or refuses this client.
    """
    admin = _Admin(kafka, time.monotonic() + deadline_s)
    wanted = {topic.name: topic for topic in topics}
    found = admin.partitions(wanted)
    of_users = found.get(topics.behaviors, partitions)
    findings = [
        Finding("error", name, "is missing; `samstream topics create` makes it") for name in wanted if name not in found
    ]
    findings += [
        Finding("error", name, f"has {found[name]} partitions, must have {count}")
        for name, topic in wanted.items()
        if name in found and found[name] != (count := topic.partitions(of_users))
    ]
    if of_users != partitions:
        text = (
            f"has {of_users} partitions, and topics.partitions={partitions}: jobs take Kafka's number, and `samstream"
            f" topics create` refuses it. Set topics.partitions to {of_users}"
        )
        findings.append(Finding("warning", topics.behaviors, text))
    findings += admin.findings(topics, list(found), needs)
    return Report([], list(found), of_users, worst_first(findings))


def verify(
    kafka: Mapping[str, str], topics: Topics, *, configured: int | None = None, deadline_s: float = _DEADLINE_S
) -> int:
    """Check that all topics are there and co-partitioned; return the partition count of those keyed by user.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        configured: the partition count of the settings. Kafka's is the one that holds; a difference is logged.
        deadline_s: how long a broker may take to come up.

    Raises:
        TopicError: naming every missing topic and every wrong count.
        KafkaClientError: when Kafka cannot be reached, or refuses this client.
    """
    admin = _Admin(kafka, time.monotonic() + deadline_s)
    wanted = {topic.name: topic for topic in topics}
    found = admin.partitions(wanted)
    if missing := [name for name in wanted if name not in found]:
        raise TopicError(f"topics are missing: {', '.join(missing)}; make them with `samstream topics create`")
    of_users = found[topics.behaviors]
    _check(found, {name: topic.partitions(of_users) for name, topic in wanted.items()})
    if configured is not None and configured != of_users:
        used = "the topics' number holds; topics.partitions is for `samstream topics create`"
        log(_logger, "partitions_differ", logging.WARNING, configured=configured, topics=of_users, used=used)
    return of_users


def record_limits(kafka: Mapping[str, str], topics: Topics, *, deadline_s: float = _DEADLINE_S) -> dict[str, int]:
    """Return the largest batch of records (bytes) that Kafka takes in each topic that samstream writes.

    Topics that this user may not describe are left out.

    Raises:
        TopicError: when Kafka cannot be reached.
    """
    names = [topics.scores, topics.samples, topics.outcomes, topics.model_updates, topics.dead_letters]
    admin = _Admin(kafka, time.monotonic() + deadline_s)
    return {
        name: int(config["max.message.bytes"])
        for name, config in admin.configs(names).items()
        if "max.message.bytes" in config
    }


class _Admin:
    """An admin client that waits for a starting broker, up to a deadline, and says why it gave up."""

    def __init__(self, kafka: Mapping[str, str], deadline: float) -> None:
        self._deadline = deadline
        self._health = ConnectionHealth(kafka, log_errors=False)
        self._client = new_admin(kafka, self._health)

    def partitions(self, names: Mapping[str, object], *, whole: bool = False) -> dict[str, int]:
        """Return partition counts of what exists of `names`; `whole` waits until all do and have leaders."""
        while True:
            known = list_topics(self._client, self._health, self._deadline)
            found = {name: len(known[name].partitions) for name in names if name in known}
            if not whole or (len(found) == len(names) and self._led(found)):
                return found
            if time.monotonic() > self._deadline:
                raise TopicError(
                    "some partitions have no leader: see that all brokers of this Kafka run, and try again"
                )
            time.sleep(_RETRY_S)

    def _led(self, counts: Mapping[str, int]) -> bool:
        """Return whether every partition has a leader that answers; metadata name it before it knows that it leads."""
        wanted = {
            TopicPartition(name, number): OffsetSpec.latest()  # type: ignore[no-untyped-call]
            for name, count in counts.items()
            for number in range(count)
        }
        return all(
            _error(future) is None
            for future in self._client.list_offsets(wanted, request_timeout=self._left()).values()
        )

    def create(self, new: Sequence[NewTopic]) -> list[str]:
        """Create topics and return their names; one that exists by now is left as it is, and out."""
        if not new:
            return []
        created, problems = [], []
        for name, future in self._client.create_topics(list(new), request_timeout=self._left()).items():
            error = _error(future)
            if error is None:
                created.append(name)
            elif error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                problems.append(f"{name}: {error.str()}")
        if problems:
            raise TopicError("topics could not be created:\n  " + "\n  ".join(problems))
        return created

    def configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the settings of topics by name; nothing for those that this user may not describe."""
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        described = self._client.describe_configs(resources, request_timeout=self._left())
        return {
            resource.name: {entry.name: entry.value for entry in future.result().values()}
            for resource, future in described.items()
            if _error(future) is None
        }

    def findings(self, topics: Topics, names: Sequence[str], needs: Needs) -> list[Finding]:
        """Return what is to be said of the settings of some topics."""
        known = list_topics(self._client, self._health, self._deadline)
        replicas = {
            name: min(len(partition.replicas) for partition in known[name].partitions.values())
            for name in names
            if name in known and known[name].partitions
        }
        return check_settings(topics, self.configs(names), needs, replicas)

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())


def _check(found: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    problems = [
        f"{name}: has {count} partitions, must have {wanted[name]}"
        for name, count in found.items()
        if count != wanted[name]
    ]
    if problems:
        raise TopicError(
            "wrong partition counts; nothing was changed. Set topics.partitions to what is there, choose"
            " another topics.prefix, or delete these topics:\n  " + "\n  ".join(problems)
        )


def _error(future: "Future[Any]") -> KafkaError | None:
    error = future.exception()
    if isinstance(error, KafkaException):
        known: KafkaError = error.args[0]
        return known
    if error is not None:
        raise error
    return None

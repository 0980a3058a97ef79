"""A worker's membership in its consumer group: joining, being given partitions, and giving them back."""

import logging
import time
from collections import Counter
from collections.abc import Callable

from confluent_kafka import Consumer, TopicPartition

from stream.errors import ConsumerFatalError, StreamError, WorkerError
from stream.kafka.clients import consumer as new_consumer
from stream.kafka.connection import ConnectionHealth
from stream.kafka.identity import LogWatch
from stream.kafka.outage import outage_of
from stream.runtime.closing import close_all
from stream.runtime.logs import log
from stream.schema.erasures import Erasures
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.task import Task
from stream.worker.catchup import CatchUp
from stream.worker.consumer import TaskConsumer
from stream.worker.local_state import LocalState
from stream.worker.refused_commits import RefusedCommits
from stream.worker.snapshots import Snapshotter
from stream.worker.standbys import Place, Standbys
from stream.worker.takeover import TakeOver

_logger = logging.getLogger("samstream.worker")

_REJOIN_INTERVAL_S = 60.0
_POLL_S = 0.1
_FORGOTTEN_S = 20.0
"""How long a member waits for partitions of a Kafka that answers. While the others of the group give theirs back it may
have to wait; to join again then costs nothing."""
_SETTLE_S = 5.0
"""How long a worker that ends waits for an assignment that is on its way."""


class Membership:
    """The consumer of one group member, and a task for each partition number that the group has given it.

    Args:
        settings: the configuration.
        topics: the topic names.
        snapshotter: restores partitions that have no state here.
        standbys: keeps copies of other workers' partitions.
        catch_up: follows the replay after an assignment.
        partitions: how many partitions the input topics have.
        before_revoke: called before partitions are given back in order.
        before_lost: called before partitions are closed that the group has given to others already.
        erasures: users who were erased.
        formats: of the topics.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        snapshotter: Snapshotter,
        standbys: Standbys,
        catch_up: CatchUp,
        *,
        partitions: int,
        before_revoke: Callable[[], None],
        before_lost: Callable[[], None],
        erasures: Erasures | None = None,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._formats = formats
        self._erasures = erasures
        self._settings = settings
        self._topics = topics
        self._snapshotter = snapshotter
        self._standbys = standbys
        self._states = LocalState(settings.state, topics.behaviors, snapshotter, settings.feature_layout.behavior)
        self._catch_up = catch_up
        self._partitions = partitions
        self._before_revoke = before_revoke
        self._before_lost = before_lost
        self._failure: Exception | None = None
        self._assigned = self._closing = False
        self._taking: TakeOver | None = None
        self._rejoined_at = -_REJOIN_INTERVAL_S
        self._released_counts: Counter[str] = Counter()
        self._released_records = 0
        self._recovered = 0
        self.tasks: dict[int, Task] = {}
        """Partition number → its task."""
        self._watch = LogWatch(settings.kafka)
        self._outage = outage_of(settings.kafka)
        self.consumer = self._join()
        """Brings the records of these partitions; another one after `rejoin`."""

    @property
    def counts(self) -> Counter[str]:
        """What happened in all partitions that this worker has or had, by name."""
        missing = Counter(records_missing=self.consumer.missing)
        return sum((task.counts for task in self.tasks.values()), self._released_counts + missing)

    @property
    def processed(self) -> int:
        """Records processed in them."""
        return self._released_records + sum(task.processed for task in self.tasks.values())

    def check(self) -> None:
        """Raise what went wrong in a rebalance: what a callback raises does not come through the client unharmed."""
        if self._failure is not None:
            raise self._failure

    def begin_ready(self) -> None:
        """Begin the work on partitions of the assignment that have become ready.

        Raises:
            StreamError: when one of them cannot be taken over.
            StateError: likewise, when its state cannot be opened or restored.
        """
        if (taking := self._taking) is None:
            return
        if ready := taking.take():
            self.tasks |= ready
            self.consumer.begin({number: task.offsets for number, task in ready.items()})
            self._recovered += sum(task.recovered_answers for task in ready.values())
            self._catch_up.begin(sorted(ready), self.consumer.left(ready))
        if not taking.left:
            self._taking = None
            log(_logger, "assigned", partitions=_listed(taking.numbers), answers_recovered=self._recovered)
            self._standbys.follow(Place(self.consumer.member_id, self._watch.logs[self._topics.behaviors]))

    def check_logs(self, now: float) -> None:
        """See that the topics are still the ones that the tasks work on; asks Kafka every few seconds.

        Args:
            now: a monotonic clock, seconds.

        Raises:
            WorkerError: when one was recreated, or has another number of partitions.
        """
        found = self._watch.check(
            now,
            lambda: (
                (topic, number, offset, timestamp)
                for number, task in self.tasks.items()
                for topic, offset, timestamp in task.positions()
            ),
        )
        if found is None:
            return
        topic, difference = found
        if difference == "partitions":
            raise _partitions_changed(topic)
        raise WorkerError(
            f"{topic} was deleted and recreated while this worker ran. Start the worker again: it begins the new topic"
            " at its oldest record, or says what to do with the state"
        )

    def rejoin(self, error: ConsumerFatalError) -> None:
        """Go on with a new consumer, unless the last one has just met the same end.

        A static member that missed its session over a broker that was away can be fenced by itself: it has joined again
        when an offset commit of its former life arrives. Two workers of one id fence each other for ever.

        Raises:
            WorkerError: when it ends in the same way again within a minute.
        """
        now = time.monotonic()
        if now - self._rejoined_at < _REJOIN_INTERVAL_S:
            raise WorkerError(f"{error}. Does another worker have the same kafka.group.instance.id?") from None
        self._rejoined_at = now
        self._join_again(error)

    def rejoin_if_forgotten(self, now: float) -> None:
        """Go on with a new consumer when this one waits for partitions for too long.

        Two ways in which librdkafka 2.16 waits, seen where a broker froze and was fenced for a moment. A member that
        joins may hear of no topics, and asks again after five minutes (`topic.metadata.refresh.interval.ms`). One that
        leads its group may lose the coordinator between its join and the assignment that it is to send, and waits for
        ever.

        Args:
            now: a monotonic clock, seconds.
        """
        if self._assigned or self._outage.unanswered:
            self._waiting_since = now
        elif now - self._waiting_since >= _FORGOTTEN_S:
            self._join_again(f"no partitions for {_FORGOTTEN_S:.0f} s, while Kafka answers")

    def _join_again(self, why: object) -> None:
        log(_logger, "rejoining", logging.WARNING, error=why)
        self._released_counts["records_missing"] += self.consumer.missing
        close_all([self._before_lost, self._release, self.consumer.close])
        self.consumer = self._join()

    def close(self) -> None:
        """Close the tasks without a commit, and leave the group; all of it, whatever cannot be closed."""
        self._closing = True
        close_all([self._release, self._settle, self.consumer.close])

    def _settle(self) -> None:
        """Wait for an assignment that is on its way; what it brings is not taken.

        One that comes while librdkafka closes the consumer can wait for that to end, which waits for it (seen in 2.16
        on Apache Kafka, when a worker ended right after its start).
        """
        deadline = time.monotonic() + _SETTLE_S
        while not self._assigned and time.monotonic() < deadline:
            try:
                self.consumer.receive(_POLL_S)
            except StreamError:
                return

    def _join(self) -> TaskConsumer:
        self._assigned = False
        self._waiting_since = time.monotonic()
        connection, refused = ConnectionHealth(self._settings.kafka), RefusedCommits()
        own = {
            "group.id": self._settings.worker.group,
            "enable.partition.eof": "true",
            # Offsets are the state's: to jump elsewhere would fold other records, or none.
            "auto.offset.reset": "error",
            "on_commit": refused,
        }
        consumer = new_consumer(self._settings.kafka, own, connection)
        inputs = (self._topics.behaviors, self._topics.impressions, self._topics.clicks)
        consumer.subscribe(list(inputs), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        on_missing = self._settings.topics.on_missing_records
        return TaskConsumer(
            consumer,
            inputs,
            connection,
            self._new_asker,
            on_missing=on_missing,
            formats=self._formats,
            refused=refused,
        )

    def _new_asker(self) -> Consumer:
        return new_consumer(self._settings.kafka, {"group.id": self._settings.worker.group})

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = True
        try:
            # Nothing is read until a partition is ready; without this call the client would read all of them.
            consumer.assign([])
            if not self._closing:
                self._take_over(_numbers(partitions))
        except Exception as error:
            self._failure = error

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = False
        log(_logger, "revoked", partitions=_listed(_numbers(partitions)))
        try:
            close_all([self._before_revoke, self._release])
        except Exception as error:
            self._failure = error

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assigned = False
        log(_logger, "lost", logging.WARNING, partitions=_listed(_numbers(partitions)))
        try:
            close_all([self._before_lost, self._release])
        except Exception as error:
            self._failure = error

    def _take_over(self, numbers: list[int]) -> None:
        topics = self._topics
        logs = self._watch.begin((topics.behaviors, topics.impressions, topics.clicks, topics.scores))
        for log_now in logs.values():
            if log_now.partitions != self._partitions:
                raise _partitions_changed(log_now.topic)
        self._recovered = 0
        self._taking = TakeOver(
            self._settings,
            topics,
            logs,
            self._states,
            numbers,
            partitions=self._partitions,
            before=lambda: self._standbys.release(numbers),
            erasures=self._erasures,
            formats=self._formats,
        )

    def _release(self) -> None:
        """Close all tasks; what was not committed is dropped."""
        self._standbys.rest()
        taking, self._taking = self._taking, None
        released = list(self.tasks.values())
        for number, task in self.tasks.items():
            self._released_counts.update(task.counts)
            self._released_records += task.processed
            self._snapshotter.forget(number)
        self.tasks.clear()
        self._catch_up.forget()
        self.consumer.forget()
        close_all([*(task.close for task in released), *([taking.cancel] if taking is not None else [])])


def _partitions_changed(topic: str) -> WorkerError:
    return WorkerError(
        f"the number of partitions of {topic} was changed while this worker ran. Users lie in other partitions since"
        " then, away from their histories: make topics of another topics.prefix with the wanted number"
    )


def _numbers(partitions: list[TopicPartition]) -> list[int]:
    return sorted({partition.partition for partition in partitions})


def _listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))

"""A worker's consumer: hands each task its records, and knows how far each partition has been read."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.errors import ConsumerFatalError, KafkaClientError, WorkerError
from stream.kafka.clients import to_batches
from stream.kafka.connection import ConnectionHealth, is_final, is_unknown_topic
from stream.kafka.offsets import watermarks
from stream.kafka.removed import skip_removed
from stream.runtime.closing import close_all
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.schema.formats import JSON_ONLY, Formats
from stream.task.task import Task
from stream.worker.refused_commits import RefusedCommits
from stream.worker.schema_gate import SchemaGate, Where

_logger = logging.getLogger("samstream.worker")

FETCH = 5_000
"""Records taken from the client at a time."""
_MOST_WAITING = 20_000
"""Records of one topic and partition in hand: when more wait for another topic to catch up, reading pauses."""
_ASK_S = 1.0


class TaskConsumer:
    """The reading side of a worker: positions, ends, pauses and offset commits of all partitions that it has.

    Args:
        consumer: of the workers' group, with `enable.partition.eof`.
        topics: the input topics.
        connection: the consumer's connection errors.
        new_asker: makes another consumer, with a connection of its own: a question behind a fetch waits until records
            come. One that does not answer is replaced: it may have forgotten all brokers.
        on_missing: what to do when Kafka has removed records that were not read: `stop`, or `skip` them.
        formats: of the topics; a record that they are not ready for is held back.
        refused: the consumer's `on_commit`.
    """

    def __init__(
        self,
        consumer: Consumer,
        topics: Sequence[str],
        connection: ConnectionHealth,
        new_asker: Callable[[], Consumer],
        *,
        on_missing: Literal["stop", "skip"] = "stop",
        formats: Formats = JSON_ONLY,
        refused: RefusedCommits | None = None,
    ) -> None:
        self._gate = SchemaGate(formats, topics)
        self._consumer = consumer
        self._new_asker = new_asker
        self._asker = new_asker()
        self._connection = connection
        self._refused = RefusedCommits() if refused is None else refused
        self._topics = topics
        self._positions: dict[Where, int] = {}
        self._fetched: set[Where] = set()
        self._ends: set[Where] = set()
        self._paused: set[Where] = set()
        self._committed: set[int] = set()
        self._on_missing = on_missing
        self._log_limit = LogLimit()
        self.missing = 0
        """Records that Kafka had removed before they could be read."""
        self.drained = True
        """Whether the last `receive` took all that the client had."""

    @property
    def member_id(self) -> str:
        """The id that the group has given to this member."""
        return self._consumer.memberid() or ""

    def begin(self, starts: Mapping[int, Mapping[str, int]]) -> None:
        """Read these partitions, too: partition number → topic → the offset to begin at.

        All that was received must have been dispatched: the others go on behind that.
        """
        for number, offsets in starts.items():
            self._positions |= {(topic, number): offsets[topic] for topic in self._topics}
        self._assign()

    def forget(self) -> None:
        """Forget all partitions: they were given back."""
        with suppress(KafkaException):
            self._consumer.resume([TopicPartition(*where) for where in self._paused | self._gate.partitions])
        self._gate.clear()
        for known in (self._positions, self._fetched, self._ends, self._paused, self._committed, self._refused.numbers):
            known.clear()

    def receive(self, timeout_s: float) -> Sequence[Message]:
        """Return what the client has, at most about `FETCH` messages; waits up to `timeout_s` for the first.

        Records whose schema is not known yet come once it is, and nothing behind them in their partition before.

        Raises:
            ConsumerFatalError: when the consumer is of no use any more.
            KafkaClientError: when Kafka refuses this client.
        """
        if self._connection.fatal:
            raise ConsumerFatalError(self._connection.fatal)
        self._connection.check()
        messages: list[Message] = self._consumer.consume(FETCH, 0)
        if not messages:
            first = self._consumer.poll(timeout_s)
            messages = [] if first is None else [first, *self._consumer.consume(FETCH, 0)]
        if messages:
            self._connection.mark_reachable()
        self.drained = len(messages) < FETCH
        before = self._gate.partitions
        admitted = self._gate.admit(messages)
        if before or self._gate.partitions:
            self._pause_held(before, self._gate.partitions)
        return admitted

    def _pause_held(self, before: set[Where], held: set[Where]) -> None:
        """Read nothing more of partitions that wait for a schema, and go on with those that no longer do."""
        self._ends -= held
        self._consumer.pause([TopicPartition(*where) for where in held])
        self._consumer.resume([TopicPartition(*where) for where in before - held - self._paused])

    def dispatch(self, messages: Sequence[Message], tasks: Mapping[int, Task]) -> None:
        """Give each task the records of its partition.

        Raises:
            ConsumerFatalError: when the consumer is of no use any more.
            WorkerError: when Kafka no longer has what comes next, or refuses this client.
        """
        reached: dict[Where, int] = {}
        ended: dict[Where, int] = {}
        lost: dict[Where, int | None] = {}
        said = list(map(Message.error, messages))
        # Compared by identity: a KafkaError can be compared with nothing else.
        if faults := [place for place, error in enumerate(said) if error is not None]:
            for place in faults:
                self._take_error(messages[place], ended, lost, tasks)
            messages = [message for message, error in zip(messages, said, strict=True) if error is None]
        for batch in to_batches(messages):
            task = tasks.get(batch.partition)
            if task is not None:
                task.add(batch)
                reached[batch.topic, batch.partition] = batch.offsets[-1] + 1
        self._positions |= reached
        self._ends -= reached.keys()
        for where, offset in ended.items():
            # Beyond the last record where transaction markers follow it; before it where records came after the end.
            if offset >= self._positions[where]:
                self._positions[where] = offset
                self._ends.add(where)
        self._fetched |= reached.keys() | ended.keys()
        for where, missed in lost.items():
            # Of another offset, the error is of an earlier assignment. Without any, the client could not check its own.
            if where in self._positions and missed in (None, self._positions[where]):
                self._go_on(where, sure=missed is not None)

    def _take_error(
        self, message: Message, ended: dict[Where, int], lost: dict[Where, int | None], tasks: Mapping[int, Task]
    ) -> None:
        """Note where a partition has ended, or has not what comes next; raises or logs the rest."""
        error, number = message.error(), message.partition()
        assert error is not None
        where = message.topic() or "", -1 if number is None else number
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            lost[where] = message.offset()
        elif error.code() != KafkaError._PARTITION_EOF:
            self._raise_or_log(error, where)
        elif where[1] in tasks:
            ended[where] = message.offset() or 0

    def _raise_or_log(self, error: KafkaError, where: Where) -> None:
        """Raise what ends this consumer or the worker; log the rest now and then, as it may come with each fetch."""
        name = f"{where[0]}/{where[1]}"
        # What poll brings of a fatal error bears its code, but not its flag.
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise ConsumerFatalError(error.str())
        if is_final(error):
            raise WorkerError(f"{name}: {error.str()}")
        if not is_unknown_topic(error) and self._log_limit.admit(error.code()) is not None:
            log(_logger, "consume_error", logging.WARNING, where=name, error=error.str())

    def _go_on(self, where: Where, *, sure: bool) -> None:
        """Go on in a partition whose next offset Kafka does not have, behind the removed records if that is allowed.

        Unless that is `sure`, Kafka is asked; where it has the offset, it is read again.
        """
        topic, number = where
        position = self._positions[where]
        low, high = watermarks(self._asker, topic, number)
        if not sure and low <= position <= high:
            self._assign()
            return
        if position >= low:  # beyond the end, or it was until a moment ago
            raise WorkerError(
                f"{topic}/{number} had no offset {position} to go on from (now it has {low} to {high}): the topic was"
                " recreated, or has lost its end. Start the worker again: it begins the new topic at its oldest record,"
                " or says what to do with the state"
            )
        self.missing += skip_removed(
            self._on_missing, topic, number, reached=position, oldest=low, error=WorkerError, logger=_logger
        )
        self._positions[where] = low
        # A partition that failed cannot be sought in.
        self._assign()

    def _assign(self) -> None:
        """Assign all partitions once more: reading goes on where each of them stands."""
        self._consumer.resume([TopicPartition(*where) for where in self._gate.partitions])
        self._gate.clear()
        self._consumer.assign([TopicPartition(*where, offset) for where, offset in self._positions.items()])
        self._consumer.pause([TopicPartition(*where) for where in self._paused])

    def at_end(self, topic: str, number: int) -> bool:
        """Say whether a partition has been read to its end, as far as the client has heard."""
        where = topic, number
        if where in self._ends:
            return True
        if where not in self._fetched:
            return False  # what the client has cached is from an earlier assignment
        return self._cached_end(where) <= self._positions[where]

    def asked_at_end(self, number: int) -> bool:
        """Ask the broker itself whether all topics have been read to their end; False while it does not answer."""
        try:
            for topic in self._topics:
                _, high = watermarks(self._asker, topic, number, wait_s=0, answer_s=_ASK_S)
                if self._positions[topic, number] < high:
                    return False
        except KafkaClientError:
            self._asker.close()
            self._asker = self._new_asker()
            return False
        return True

    def commit(self, changed: Collection[int], tasks: Mapping[int, Task], *, wait: bool) -> None:
        """Commit the offsets of the input topics that tasks have reached; `wait` waits for Kafka to have them.

        Args:
            changed: the partition numbers whose tasks have gone on. What Kafka refused before is committed with them.
            tasks: partition number → task.
            wait: wait for Kafka's answer.
        """
        # A refusal may be of an earlier assignment: until its task has gone on, the group may be further than that.
        self._committed.update(changed)
        due = tasks.keys() & (self._refused.numbers & self._committed | set(changed))
        offsets = [
            TopicPartition(topic, number, tasks[number].offsets[topic], tasks[number].origins.get(topic))
            for number in due
            for topic in self._topics
        ]
        self._refused.numbers.clear()
        if not offsets:
            return
        try:
            if wait:
                self._refused(None, self._consumer.commit(offsets=offsets, asynchronous=False) or [])
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._refused(error.args[0], offsets)

    def close(self) -> None:
        """Leave the group.

        Raises:
            KafkaClientError: when Kafka does not let it go in order.
        """
        try:
            close_all([self._asker.close, self._consumer.close])
        except KafkaException as error:
            raise KafkaClientError(f"could not leave the group in order: {error.args[0].str()}") from None

    def lag(self, tasks: Mapping[int, Task]) -> dict[str, int]:
        """Return topic → records in Kafka, as far as the client has heard, that the tasks have not processed."""
        return {
            topic: sum(
                max(0, self._cached_end((topic, number)) - self._processed(task, topic, number))
                for number, task in tasks.items()
            )
            for topic in self._topics
        }

    def left(self, tasks: Mapping[int, Task]) -> int:
        """Return how many records the tasks have not processed of those that were there when they began."""
        return sum(
            max(0, task.ends[topic] - self._processed(task, topic, number))
            for number, task in tasks.items()
            for topic in self._topics
        )

    def limit_backlogs(self, tasks: Mapping[int, Task]) -> None:
        """Pause what runs far ahead of its partition's other topics, and go on with it when that is processed."""
        for number, task in tasks.items():
            for topic in self._topics:
                where, waiting = (topic, number), task.backlog(topic)
                if waiting > _MOST_WAITING and where not in self._paused:
                    self._paused.add(where)
                    self._consumer.pause([TopicPartition(*where)])
                elif waiting < _MOST_WAITING // 2 and where in self._paused:
                    self._paused.remove(where)
                    self._consumer.resume([TopicPartition(*where)])

    def _processed(self, task: Task, topic: str, number: int) -> int:
        """Return the next offset to be processed, beyond what is no record, such as transaction markers."""
        return task.offsets[topic] if task.backlog(topic) else self._positions.get((topic, number), 0)

    def _cached_end(self, where: Where) -> int:
        _, high = self._consumer.get_watermark_offsets(TopicPartition(*where), cached=True)
        return int(high)

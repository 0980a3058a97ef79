"""Plans the recovery of a partition that was assigned: offsets to read from, and answers that were given before.

The answers lie in `scores`, the journal of what front ends were told: an impression read again after a crash is not
scored again, since the model must learn from what was shown.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from stream.errors import KafkaClientError, WorkerError
from stream.kafka.clients import consumer as new_consumer
from stream.kafka.identity import compare
from stream.kafka.offsets import committed_offsets, metadata_of, offset_for_time, watermarks
from stream.kafka.removed import skip_removed
from stream.runtime.closing import Resources
from stream.runtime.logs import log
from stream.schema.events import DECODE_ERRORS, RequestKey, decode_score
from stream.schema.position import LogIdentity, Origin, decode_origin, kept_origin
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.resume import GivenAnswer, ResumePoint
from stream.worker.producer import read_given
from stream.worker.state_owner import of_other_topics

_logger = logging.getLogger("samstream.worker")

_WAIT_S = 30.0


class RecoveryPlanner:
    """Finds out where to resume partitions, and whether what is kept of them belongs to the topics of now.

    Args:
        settings: the configuration.
        consumer: asks for offsets; of the workers' group.
        logs: topic → which log it is now: the input topics and `scores`.
        check: called while answers are read; what it raises ends the planning.
    """

    def __init__(
        self,
        settings: Settings,
        consumer: Consumer,
        logs: Mapping[str, LogIdentity],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._topics = Topics(settings.topics.prefix)
        self._consumer = consumer
        self._logs = logs
        self._check = check

    def check_partitions(self) -> None:
        """See that no partition's committed offset is of a time when there were more or fewer of them.

        A worker may be given new partitions alone, of which nothing is kept that could be compared.

        Raises:
            WorkerError: when there is one.
            KafkaClientError: when Kafka does not answer.
        """
        topic = self._topics.impressions
        now = self._logs[topic]
        for known in committed_offsets(self._consumer, topic, range(now.partitions)):
            origin = decode_origin(metadata_of(known))
            if origin is not None and origin.difference(now) == "partitions":
                raise self._committed_before(topic, known.partition, origin)

    def plan(self, number: int, kept: Mapping[str, int], origins: Mapping[str, str]) -> ResumePoint:
        """Return where to resume a partition number.

        Reading goes on where the state stands, or at the beginning where there is none. If the group went further in
        the meantime, on another machine or before the state was lost, `behaviors` are caught up with; impressions,
        clicks and answers are read again as far back as windows may still be open, even from before the state.

        Args:
            number: the partition number.
            kept: topic → offset, as the state has them; empty when there is none.
            origins: topic → what that offset is an offset of, as the state has it.

        Raises:
            WorkerError: when the state belongs to other topics or another cluster, when the number of partitions has
                changed, or when Kafka has removed what comes next for it.
            KafkaClientError: when Kafka does not answer.
        """
        topics, settings = self._topics, self._settings
        if kept and topics.behaviors not in kept:
            raise of_other_topics(settings.state, number, kept)
        kept = {topic: offset for topic, offset in kept.items() if self._is_ours(topic, number, offset, origins)}
        committed = {topic: self._committed(topic, number) for topic in (topics.impressions, topics.clicks)}
        answered = committed[topics.impressions]
        stale = kept.get(topics.impressions, 0) < answered
        [folded] = committed_offsets(self._consumer, topics.behaviors, [number])
        told = committed | {topics.behaviors: folded.offset}
        behind = not stale and any(offset < kept.get(topic, 0) for topic, offset in told.items())
        offsets, ends, missing = {}, {}, 0
        for topic in (topics.behaviors, topics.impressions, topics.clicks, topics.scores):
            low, high = watermarks(self._consumer, topic, number)
            ends[topic] = high
            wanted = kept.get(topic, low)
            if stale and topic != topics.behaviors:
                # A click is read with its impression, which may be a window older.
                windows = 1 if topic == topics.clicks else 2
                recent = offset_for_time(self._consumer, topic, number, _time_ms(settings, windows), high)
                wanted = min(recent, committed.get(topic, high))
                # What the group has read was answered, if only by a worker whose state is lost; the rest by nobody.
                if (read := max(committed.get(topic, low), kept.get(topic, 0))) < low:
                    missing += self._stop_or_skip(f"group {settings.worker.group}", topic, number, read, low)
            elif wanted < low:
                missing += self._stop_or_skip(f"the state of partition {number}", topic, number, wanted, low)
            offsets[topic] = max(wanted, low)
        begin = TopicPartition(topics.scores, number, offsets[topics.scores])
        answers, later, scores_end = _answers(settings, begin, self._check)
        # Of an offset that goes on where the state stands, the record before it is the one that the state has seen.
        known = {topic: decode_origin(origins.get(topic)) for topic in offsets if offsets[topic] == kept.get(topic)}
        timestamps = {topic: origin.timestamp for topic, origin in known.items() if origin is not None}
        logs = dict(self._logs)
        return ResumePoint(
            offsets, answers, scores_end, answered, ends, logs, timestamps, stale, behind, missing, later
        )

    def _is_ours(self, topic: str, number: int, offset: int, origins: Mapping[str, str]) -> bool:
        """Return whether an offset of the state is one of the topic of now; False when that topic was recreated.

        A state from before origins were kept is only compared with the topic's end.
        """
        now = self._logs.get(topic)
        if now is None:
            return False  # of a topic that nothing reads any more
        origin = kept_origin(origins.get(topic), now)
        difference = compare(self._consumer, origin, now, number, offset)
        directory = self._settings.state.directory
        state = f"the state of partition {number} in {directory}"
        if difference == "cluster":
            raise WorkerError(
                f"{state} is of another Kafka cluster ({origin.log.cluster}; this one is {now.cluster}): give each"
                f" cluster a state.directory of its own, or move {directory} away"
            )
        if difference == "partitions":
            raise _partitions_changed(state, topic, origin.log.partitions, now.partitions)
        if difference == "end":
            raise WorkerError(
                f"{state} has read {topic} up to offset {offset}, which is beyond its end: Kafka has lost records. Move"
                f" {directory} away to start from what Kafka has."
            )
        if difference and topic == self._topics.behaviors:
            raise WorkerError(
                f"{state} has read {topic} up to offset {offset}, and the topic was recreated since (id"
                f" {origin.log.topic_id or 'unknown'}, now {now.topic_id or 'unknown'}). Move {directory} away to start"
                " from what Kafka has."
            )
        if difference:
            log(
                _logger,
                "topic_recreated",
                logging.WARNING,
                topic=topic,
                partition=number,
                dropped_offset=offset,
                was=origin.log.topic_id or "unknown",
                now=now.topic_id or "unknown",
                begins="at the oldest record",
            )
        return not difference

    def _committed(self, topic: str, number: int) -> int:
        """Return the group's committed offset of a partition; 0 when it has none that belongs to the topic of now."""
        [known] = committed_offsets(self._consumer, topic, [number])
        if known.offset <= 0:
            return 0
        now, group = self._logs[topic], self._settings.worker.group
        origin = decode_origin(metadata_of(known))
        difference = compare(self._consumer, origin, now, number, known.offset) if origin is not None else ""
        if difference == "partitions" and origin is not None:
            raise self._committed_before(topic, number, origin)
        _, end = watermarks(self._consumer, topic, number)
        if not difference and known.offset <= end:
            return int(known.offset)
        log(
            _logger,
            "committed_offset_ignored",
            logging.WARNING,
            group=group,
            topic=topic,
            partition=number,
            offset=known.offset,
            end=end,
            reason=f"it is of an earlier {topic} or another cluster: what the topic has now is answered",
        )
        return 0

    def _committed_before(self, topic: str, number: int, origin: Origin) -> WorkerError:
        """Return the error that an offset was committed when there were more or fewer partitions."""
        what = f"the committed offset of group {self._settings.worker.group} for partition {number}"
        return _partitions_changed(what, topic, origin.log.partitions, self._logs[topic].partitions)

    def _stop_or_skip(self, reader: str, topic: str, number: int, read: int, low: int) -> int:
        """Return how many records of the input are skipped that Kafka has removed, where that is allowed."""
        # Where answers were removed, impressions that are read again are answered again.
        answers = topic == self._topics.scores
        missing = skip_removed(
            "skip" if answers else self._settings.topics.on_missing_records,
            topic,
            number,
            reached=read,
            oldest=low,
            says=f"{reader} has read {topic}/{number}",
            error=WorkerError,
            logger=_logger,
        )
        return 0 if answers else missing


def _partitions_changed(what: str, topic: str, before: int, now: int) -> WorkerError:
    return WorkerError(
        f"{what} is of a time when {topic} had {before} partitions; now it has {now}. Users lie in other partitions"
        " since then, away from their histories: partitions cannot be changed. Make topics of another topics.prefix"
        " with the wanted number, and write the behaviours there again."
    )


def _time_ms(settings: Settings, windows: int) -> int:
    """Return the time (ms) so many attribution windows ago, lateness included."""
    return round(
        1000 * (time.time() - windows * (settings.worker.attribution_window_s + settings.worker.allowed_lateness_s))
    )


def _answers(
    settings: Settings, begin: TopicPartition, check: Callable[[], None]
) -> tuple[dict[RequestKey, GivenAnswer], dict[RequestKey, list[GivenAnswer]], int]:
    """Read the scores from an offset to their present end.

    Returns:
        The first answer to each request; further ones, which were given to another impression of the same id, or by a
        worker that had been frozen; and that end.
    """
    answers: dict[RequestKey, GivenAnswer] = {}
    later: dict[RequestKey, list[GivenAnswer]] = defaultdict(list)
    with Resources() as resources:
        reader = resources.add(
            new_consumer(settings.kafka, {"group.id": "samstream-recovery", "enable.partition.eof": "true"})
        )
        _, end = watermarks(reader, begin.topic, begin.partition)
        reader.assign([begin])
        deadline = time.monotonic() + _WAIT_S
        position = begin.offset
        while position < end:
            message = reader.poll(1.0)
            if message is None:
                if time.monotonic() > deadline:
                    raise WorkerError(f"could not read {begin.topic} from {position} to {end}: is Kafka reachable?")
                continue
            deadline = time.monotonic() + _WAIT_S
            check()
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    # The end was reached over records that are not delivered, such as transaction markers.
                    break
                raise KafkaClientError(f"{begin.topic}/{begin.partition}: {error.str()}")
            position = (message.offset() or 0) + 1
            try:
                score = decode_score(message.value() or b"")
            except DECODE_ERRORS:
                continue
            given = read_given(message, score)
            if answers.setdefault(score.request, given) is not given:
                later[score.request].append(given)
        return answers, dict(later), end

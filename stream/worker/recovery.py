"""Plans the recovery of a partition that was assigned: offsets to read from, and answers that were given before.

The answers lie in `scores`, the journal of what front ends were told: an impression read again after a crash is not
scored again, since the model must learn from what was shown.
"""

import logging
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from stream.errors import KafkaClientError, WorkerError
from stream.kafka.clients import consumer as new_consumer
from stream.kafka.offsets import offset_for_time, watermarks, with_retries
from stream.runtime.closing import Resources
from stream.runtime.logs import log
from stream.schema.events import DECODE_ERRORS, Score, decode_score
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.resume import ResumePoint

_logger = logging.getLogger("samstream.worker")

_WAIT_S = 30.0


def plan_recovery(
    consumer: Consumer,
    settings: Settings,
    number: int,
    kept: Mapping[str, int],
    alive: Callable[[], None] = lambda: None,
) -> ResumePoint:
    """Return where to resume a partition number.

    Reading goes on where the state stands, or at the beginning where there is none. If the group went further in the
    meantime, on another machine or before the state was lost, `behaviors` are caught up with; impressions, clicks and
    answers are read again as far back as windows may still be open, even from before the state.

    Args:
        consumer: a consumer of the workers' group.
        settings: the configuration.
        number: the partition number.
        kept: topic → offset, as the state has them; empty when there is none.
        alive: called while answers are read.

    Raises:
        WorkerError: when the state is ahead of Kafka or of other topics, or Kafka has removed what comes next for it.
        KafkaClientError: when Kafka does not answer.
    """
    topics = Topics(settings.topics.prefix)
    if kept and topics.behaviors not in kept:
        raise WorkerError(
            f"the state of partition {number} in {settings.state.directory} is of other topics"
            f" ({', '.join(sorted(kept))}): give each topics.prefix a state.directory of its own"
        )
    committed = _committed(consumer, number, (topics.impressions, topics.clicks))
    answered = committed[topics.impressions]
    overtaken = kept.get(topics.impressions, 0) < answered
    offsets, ends = {}, {}
    for topic in (topics.behaviors, topics.impressions, topics.clicks, topics.scores):
        low, high = watermarks(consumer, topic, number)
        ends[topic] = high
        wanted = kept.get(topic, low)
        if wanted > high:
            raise _ahead(topic, number, wanted, high, settings)
        if overtaken and topic != topics.behaviors:
            # A click is read with its impression, which may be a window older.
            windows = 1 if topic == topics.clicks else 2
            recent = offset_for_time(consumer, topic, number, _time_ms(settings, windows), high)
            wanted = min(recent, committed.get(topic, high))
        elif wanted < low and topic != topics.scores:
            _stop_or_skip(topic, number, wanted, low, settings)
        offsets[topic] = max(wanted, low)
    answers, scores_end = _answers(settings, TopicPartition(topics.scores, number, offsets[topics.scores]), alive)
    return ResumePoint(offsets, answers, scores_end, answered, ends, overtaken)


def _committed(consumer: Consumer, number: int, topics: tuple[str, ...]) -> dict[str, int]:
    """Return topic → the group's committed offset, 0 when it has none."""
    asked = [TopicPartition(topic, number) for topic in topics]
    known = with_retries(lambda: consumer.committed(asked, timeout=5.0), "committed offsets")
    for partition in known:
        if partition.error is not None:
            raise KafkaClientError(f"committed offset of {partition.topic}/{number}: {partition.error.str()}")
    return {partition.topic: max(0, partition.offset) for partition in known}


def _time_ms(settings: Settings, windows: int) -> int:
    """Return the time (ms) so many attribution windows ago, lateness included."""
    return round(
        1000 * (time.time() - windows * (settings.worker.attribution_window_s + settings.worker.allowed_lateness_s))
    )


def _ahead(topic: str, number: int, kept: int, high: int, settings: Settings) -> WorkerError:
    return WorkerError(
        f"the state of partition {number} has read {topic} up to {kept}, Kafka has only {high}: the topic was made"
        f" anew. Move {settings.state.directory} away to start from what Kafka has."
    )


def _stop_or_skip(topic: str, number: int, kept: int, low: int, settings: Settings) -> None:
    if settings.state.on_missing_records == "stop":
        raise WorkerError(
            f"the state of partition {number} has read {topic} up to {kept}, and Kafka has removed what came then: its"
            f" oldest record is {low}. Start with state.on_missing_records=skip to go on without these {low - kept}"
            f" records, or move {settings.state.directory} away to begin with what Kafka has."
        )
    log(_logger, "gap", logging.WARNING, topic=topic, partition=number, skipped=low - kept, oldest=low)


def _answers(settings: Settings, begin: TopicPartition, alive: Callable[[], None]) -> tuple[dict[str, Score], int]:
    """Read the scores from an offset to their present end; returns the first answer to each request, and that end."""
    answers: dict[str, Score] = {}
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
            alive()
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
            answers.setdefault(score.request_id, score)
        return answers, end

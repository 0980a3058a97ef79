"""A worker's producer: scores as soon as they are computed, then samples, outcomes and dead letters."""

import logging
import time
from collections.abc import Callable, Iterable

from confluent_kafka import Message

from stream.kafka.clients import to_record
from stream.kafka.dead_letters import send_dead_letter
from stream.kafka.producer import ReliableProducer
from stream.runtime.logs import log
from stream.schema.events import Score, Spent, encode_json, encode_packed
from stream.schema.record import RefusedRecord
from stream.schema.topics import Topics
from stream.task.answer import Answer
from stream.task.labels import Result
from stream.task.resume import GivenAnswer
from stream.task.task import ScoringRequest
from stream.worker.metrics import WorkerMetrics

_logger = logging.getLogger("samstream.worker")

_NUMBERS, _CHECKSUM = "numbers", "sequence"
"""Headers of a score with what `Sample.numbers` and `Sample.sequence.checksum` (8 bytes, little endian) will hold: a
worker needs it after a crash, front ends do not."""


class TaskProducer:
    """The producing side of a worker.

    Args:
        sender: where records go.
        topics: the topic names.
        metrics: gets the time from each impression to its answer.
    """

    def __init__(self, sender: ReliableProducer, topics: Topics, metrics: WorkerMetrics) -> None:
        self._sender = sender
        self._topics = topics
        self._metrics = metrics

    @property
    def unacknowledged(self) -> int:
        """Records that Kafka has not acknowledged yet."""
        return self._sender.waiting

    def send_score(
        self, request: ScoringRequest, answer: Answer, spent: Spent, *, acknowledge: Callable[[int], None]
    ) -> None:
        """Send the answer to a request.

        Args:
            request: what was asked.
            answer: what the models answered.
            spent: where the time went.
            acknowledge: called with the score's offset once Kafka has it.
        """

        def delivered(message: Message) -> None:
            acknowledge(to_record(message).offset)

        score = encode_json(_score(request, answer, spent))
        headers: list[tuple[str, str | bytes | None]] = [(_CHECKSUM, request.sequence.checksum.to_bytes(8, "little"))]
        if answer.numbers:
            headers.append((_NUMBERS, answer.numbers))
        self._sender.send(
            self._topics.scores,
            score,
            key=request.impression.user,
            partition=request.record.partition,
            headers=headers,
            on_delivery=delivered,
        )
        self._metrics.answer_seconds.observe(max(0, wall_ms() - request.record.timestamp) / 1000)

    def send_results(self, number: int, results: Iterable[Result], refused: Iterable[RefusedRecord]) -> None:
        """Send the samples, outcomes and dead letters of one partition number."""
        for sample, outcome in results:
            if sample is not None:
                self._sender.send(self._topics.samples, encode_packed(sample), key=sample.user, partition=number)
            if outcome is not None:
                self._sender.send(self._topics.outcomes, encode_packed(outcome), key=outcome.user, partition=number)
        for refusal in refused:
            log(
                _logger,
                "dead_letter",
                logging.WARNING,
                topic=refusal.record.topic,
                offset=refusal.record.offset,
                reason=refusal.reason,
            )
            send_dead_letter(self._sender, self._topics, refusal.record, refusal.reason)

    def poll(self) -> None:
        """Serve delivery reports.

        Raises:
            KafkaClientError: when a record could not be delivered, or Kafka refuses this client.
        """
        self._sender.poll()

    def flush(self) -> None:
        """Wait until Kafka has acknowledged everything.

        Raises:
            KafkaClientError: when a record could not be delivered, or Kafka refuses this client.
        """
        self._sender.flush()


def read_given(message: Message, score: Score) -> GivenAnswer:
    """Return an answer with what the headers of its record in `scores` say, as far as they say it."""
    headers = dict(message.headers() or ())
    numbers, checksum = (
        value if isinstance(value := headers.get(name), bytes) else b"" for name in (_NUMBERS, _CHECKSUM)
    )
    return GivenAnswer(score, numbers, to_record(message).timestamp, int.from_bytes(checksum[:8], "little"))


def wall_ms() -> int:
    """Return the time, ms since the epoch."""
    return time.time_ns() // 1_000_000


def _score(request: ScoringRequest, answer: Answer, spent: Spent) -> Score:
    impression = request.impression
    return Score(
        request_id=impression.request_id,
        user=impression.user,
        ts=impression.ts,
        arm=answer.arm,
        epoch=answer.epoch,
        version=answer.version,
        items=[candidate.item for candidate in impression.candidates],
        probabilities=answer.probabilities.tolist(),
        order=answer.order.tolist(),
        slots=min(impression.slots, len(impression.candidates)),
        seen=request.sequence.seen,
        spent_ms=spent,
        read_to=request.sequence.read_to,
        teams=list(answer.teams),
        shadows=list(answer.shadows),
        why=list(answer.why),
        shares=dict(answer.shares),
    )

"""What a worker's tasks send to Kafka: answers as soon as they are scored, then samples, outcomes and dead letters."""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial

from confluent_kafka import Message

from stream.kafka.clients import to_record
from stream.kafka.dead_letters import dead_letter
from stream.kafka.producer import Sender
from stream.runtime.logs import log
from stream.runtime.metrics import Durations
from stream.schema.events import Score, Spent, encode_json, encode_packed
from stream.schema.topics import Topics
from stream.task.answer import Answer
from stream.task.task import ScoringRequest, Task
from stream.worker.scoring import Arms

_logger = logging.getLogger("samstream.worker")


class Output:
    """The producing side of a worker.

    Args:
        sender: where records go.
        topics: the topic names.
        arms: who answers.
        micro_batch: impressions that are answered together at most.
        latency: gets the seconds from each impression's timestamp to its answer.
    """

    def __init__(self, sender: Sender, topics: Topics, arms: Arms, *, micro_batch: int, latency: Durations) -> None:
        self._sender = sender
        self._topics = topics
        self._arms = arms
        self._micro_batch = micro_batch
        self._latency = latency

    def answer(self, requests: Sequence[tuple[int, ScoringRequest]], tasks: Mapping[int, Task]) -> None:
        """Score requests, each with its partition number, tell their tasks, and send the answers."""
        # A backlog is answered piece by piece, so that the first answers do not wait for the last.
        for start in range(0, len(requests), self._micro_batch):
            part = requests[start : start + self._micro_batch]
            received = wall_ms()
            began = time.perf_counter()
            answers = self._arms.answer(
                [request.impression for _, request in part], [request.example for _, request in part]
            )
            spent = (time.perf_counter() - began) * 1000
            for (number, request), answer in zip(part, answers, strict=True):
                task = tasks[number]
                task.take_answer(request, answer)
                wait = max(0.0, received - request.record.timestamp - request.state_ms)
                score = _score(request, answer, Spent(wait, request.state_ms, spent, answer.cpu_ms))
                self._sender.send(
                    self._topics.scores,
                    encode_json(score),
                    key=request.impression.user,
                    partition=number,
                    on_delivery=partial(_score_is_in, task),
                )
                self._latency.add(max(0, wall_ms() - request.record.timestamp) / 1000)

    def publish(self, number: int, task: Task) -> None:
        """Send what a task has decided, and what it has refused."""
        samples, refused = task.take_results()
        for sample, outcome in samples:
            self._sender.send(self._topics.samples, encode_packed(sample), key=sample.user, partition=number)
            self._sender.send(self._topics.outcomes, encode_packed(outcome), key=sample.user, partition=number)
        for refusal in refused:
            log(
                _logger,
                "dead_letter",
                logging.WARNING,
                topic=refusal.record.topic,
                offset=refusal.record.offset,
                reason=refusal.reason,
            )
            dead_letter(self._sender, self._topics, refusal.record, refusal.reason)


def wall_ms() -> int:
    """Return the time, ms since the epoch."""
    return time.time_ns() // 1_000_000


def _score_is_in(task: Task, message: Message) -> None:
    task.acknowledge_score(to_record(message).offset)


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
        seen=request.seen,
        spent_ms=spent,
        read_to=request.read_to,
        teams=list(answer.teams),
    )

"""A partition's work for tests: events, the three topics as a log, and a task driven as the worker drives it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from model.statistics.item_statistics import pack_numbers
from state.behavior import BehaviorArray, from_bytes, item_key
from state.partition import Partition
from stream.schema.erasures import Erased, ErasureLog, Void, encode_marker
from stream.schema.events import (
    Behavior,
    Candidate,
    Click,
    Impression,
    Outcome,
    RequestKey,
    Sample,
    Score,
    Spent,
    Withdrawal,
    decode_score,
    encode_json,
)
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.schema.partitioner import partition_of
from stream.schema.record import Record, RecordBatch, RefusedRecord
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.answer import Answer
from stream.task.decode import Event
from stream.task.resume import GivenAnswer, ResumePoint
from stream.task.task import ScoringRequest, Task
from stream.worker.scoring import interleaved_answer

PARTITIONS, NUMBER = 4, 2
USERS = [user for user in map("user-{}".format, range(40)) if partition_of(user.encode(), PARTITIONS) == NUMBER][:4]
USER = USERS[0]
STRANGER = next(user for user in map("user-{}".format, range(40)) if partition_of(user.encode(), PARTITIONS) != NUMBER)
LENGTH, SLACK = 10, 6
T0 = 1_700_000_000_000
WINDOW, LATENESS, IDLE_S, ALIGN_S = 1000, 100, 5.0, 2.0
LATER = WINDOW + LATENESS + 1
"""From here on the window of an impression at 0 is closed."""
TOPICS = Topics()
PRECEDENCE = (TOPICS.impressions, TOPICS.clicks, TOPICS.behaviors)
SETTINGS = WorkerSettings(
    attribution_window_s=WINDOW / 1000,
    allowed_lateness_s=LATENESS / 1000,
    idle_timeout_s=IDLE_S,
    max_topic_wait_s=ALIGN_S,
    max_candidates=20,
    max_future_s=5.0,
    max_impression_age_s=300.0,
)


def behavior(item: str, ts: int, *, user: str = USER) -> Behavior:
    """Times are milliseconds after T0."""
    return Behavior(user, item, T0 + ts, f"category of {item}", "buy")


def impression(request_id: str = "r", ts: int = 0, *, user: str = USER, size: int = 4, slots: int = 2) -> Impression:
    candidates = [Candidate(f"c{index}", "food" if index else "") for index in range(size)]
    return Impression(request_id, user, T0 + ts, candidates, slots)


def click(item: str, ts: int, request_id: str = "r", *, user: str = USER) -> Click:
    return Click(request_id, user, item, T0 + ts)


def withdrawal(request_id: str = "r", ts: int = 0, *, user: str = USER) -> Withdrawal:
    return Withdrawal(request_id, user, T0 + ts)


class Log:
    """The three topics of the partition: what is written gets its offset; a record is as old as its event."""

    def __init__(self, *events: Event) -> None:
        self.records: list[Record] = []
        self._next: Counter[str] = Counter()
        for event in events:
            self.write(event)

    def write(self, event: Event, **changes: Any) -> Record:
        topic = {
            Behavior: TOPICS.behaviors,
            Impression: TOPICS.impressions,
            Withdrawal: TOPICS.impressions,
            Click: TOPICS.clicks,
        }[type(event)]
        return self.put(topic, encode_json(event), **{"key": event.user.encode(), "timestamp": event.ts, **changes})

    def erase(self, user: str = USER) -> Erased:
        """Erase a user as the command does; returns what readers of `erasures` hear of it."""
        marker = self.put(TOPICS.behaviors, encode_marker(user), key=user.encode())
        self._next[TOPICS.erasures] += 1
        void = Void(marker.offset, self._next[TOPICS.clicks])
        return Erased(user, void, T0, self._next[TOPICS.erasures] - 1)

    def put(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = USER.encode(),
        partition: int = NUMBER,
        timestamp: int = T0,
    ) -> Record:
        record = Record(topic, partition, self._next[topic], timestamp, key, value)
        self._next[topic] += 1
        self.records.append(record)
        return record


def batches(records: Iterable[Record]) -> Iterator[RecordBatch]:
    """Records as the worker's consumer hands them out: what lies side by side in one topic, together."""
    for (topic, partition), run in groupby(records, key=lambda record: (record.topic, record.partition)):
        _, _, offsets, timestamps, keys, values, _ = zip(*run, strict=True)
        yield RecordBatch(topic, partition, offsets, timestamps, keys, values)


def beginning(**changes: Any) -> ResumePoint:
    """Answers may be given as scores."""
    answers = changes.get("answers", {})
    changes["answers"] = {
        request: given if isinstance(given, GivenAnswer) else GivenAnswer(given) for request, given in answers.items()
    }
    ends = {TOPICS.impressions: changes.pop("impressions_end", 0), TOPICS.behaviors: changes.pop("behaviors_end", 0)}
    start = ResumePoint(dict.fromkeys((*PRECEDENCE, TOPICS.scores), 0), {}, 0, 0, {TOPICS.clicks: 0, **ends})
    return ResumePoint(**{name: changes.get(name, getattr(start, name)) for name in ResumePoint.__dataclass_fields__})


def reversing(request: ScoringRequest, version: int = 1) -> Answer:
    """The last candidate is the best."""
    count = len(request.impression.candidates)
    probabilities = (np.arange(1, count + 1) / (count + 1 + version)).astype(np.float32)
    numbers = pack_numbers(np.arange(2 * count, dtype=np.float32).reshape(count, 2) + version)
    order = np.argsort(-probabilities, kind="stable")
    return Answer("reversing", 1, version, probabilities, order, numbers=numbers)


def mixing(request: ScoringRequest, version: int = 1) -> Answer:
    """A list that `reversing` and its opposite have drafted."""
    one, other = reversing(request, version), reversing(request, version)
    order = other.order[::-1]
    forward = dataclasses.replace(other, arm="forward", probabilities=other.probabilities[::-1], order=order)
    mixed = interleaved_answer("mixed", one, forward, request.impression.request)
    return dataclasses.replace(mixed, numbers=one.numbers)


def score_of(request: ScoringRequest, answer: Answer) -> Score:
    """What the worker tells Kafka, as it is read again."""
    asked = request.impression
    score = Score(
        asked.request_id,
        asked.user,
        asked.ts,
        answer.arm,
        answer.epoch,
        answer.version,
        [candidate.item for candidate in asked.candidates],
        answer.probabilities.tolist(),
        answer.order.tolist(),
        asked.slots,
        request.sequence.seen,
        Spent(0.0, 0.0, 0.0),
        request.sequence.read_to,
        list(answer.teams),
    )
    return decode_score(encode_json(score))


class Bench:
    """A task on a state in a directory, driven as the worker drives it; collects what comes out."""

    def __init__(
        self,
        path: Path,
        start: ResumePoint | None = None,
        *,
        version: int = 1,
        answering: Callable[[ScoringRequest, int], Answer] = reversing,
        features: FeatureSchema = NO_FEATURES,
        erasures: ErasureLog | None = None,
        **changes: Any,
    ) -> None:
        record = features.layout.behavior
        self.partition = Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=20_000, record=record)
        self.start = start or beginning(offsets=beginning().offsets | dict(self.partition.offsets))
        changed = msgspec.structs.replace(SETTINGS, **changes)
        self.task = Task(
            self.partition, TOPICS, changed, self.start, features, partitions=PARTITIONS, erasures=erasures
        )
        self.version, self.answering = version, answering
        self.scores: dict[RequestKey, Score] = {}
        self.given: dict[RequestKey, GivenAnswer] = {}
        """The answers as another life finds them."""
        self.samples: list[Sample] = []
        self.outcomes: list[Outcome] = []
        self.refused: list[RefusedRecord] = []

    def turn(
        self, *records: Record, now: float = 0.0, wall: int = 0, limit: int = 1000, lagging: Collection[str] = ()
    ) -> list[ScoringRequest]:
        """Do one turn of the worker, without the commit; returns what was asked.

        `lagging` are the topics that have more than what was read.
        """
        for batch in batches(records):
            self.task.add(batch)
        requests = self.task.step(lambda topic: topic not in lagging, now=now, wall_ms=T0 + wall, limit=limit)
        for request in requests:
            answer = self.answering(request, self.version)
            self.task.take_answer(request, answer)
            score = self.scores.setdefault(request.impression.request, score_of(request, answer))
            self.given.setdefault(
                request.impression.request, GivenAnswer(score, answer.numbers, checksum=request.sequence.checksum)
            )
        self.settle()
        return requests

    def settle(self) -> None:
        results, refused = self.task.take_results()
        self.samples += [sample for sample, _ in results if sample is not None]
        self.outcomes += [outcome for _, outcome in results if outcome is not None]
        self.refused += refused

    def reasons(self) -> list[str]:
        return [refusal.reason for refusal in self.refused]

    def items(self, user: str = USER) -> list[int]:
        """The user's items, oldest first, as keys."""
        return keys_in(self.task.sequence(user).tobytes())

    def named(self, sample: Sample) -> BehaviorArray:
        """The sequence that a sample names."""
        self.task.sequence(sample.user)  # what waits in memory is appended
        found = self.partition.sequences.find(sample.user, sample.sequence.seen, sample.sequence.checksum)
        assert found is not None
        return found

    def named_items(self) -> list[list[int]]:
        """The items in the sequences that the samples name, as keys."""
        return [keys_in(self.named(sample).tobytes()) for sample in self.samples]

    def close(self) -> None:
        self.task.close()


def keys(*items: str) -> list[int]:
    return [item_key(item) for item in items]


def keys_in(sequence: bytes) -> list[int]:
    found: list[int] = from_bytes(sequence)["item"].tolist()
    return found


def labels_in(samples: list[Sample]) -> dict[tuple[RequestKey, int], tuple[Any, ...]]:
    """(request, item key) → everything the model learns of it; fails where one comes twice."""
    found: dict[tuple[RequestKey, int], tuple[Any, ...]] = {}
    for sample in samples:
        rows = zip(
            np.frombuffer(sample.items, "<u8").tolist(),
            np.frombuffer(sample.categories, "<u4").tolist(),
            np.frombuffer(sample.positions, "<u2").tolist(),
            np.frombuffer(sample.labels, "<u1").tolist(),
            strict=True,
        )
        for item, *row in rows:
            assert (sample.request, item) not in found, "labelled twice"
            found[sample.request, item] = (
                sample.user,
                sample.arm,
                sample.ts,
                sample.epoch,
                sample.version,
                sample.sequence,
                *row,
            )
    return found


def unread(bench: Bench, records: list[Record]) -> list[Record]:
    return [record for record in records if record.offset >= bench.start.offsets[record.topic]]

"""The work on one partition number: fold behaviours, request scores, join clicks. Knows records, but no Kafka client.

The worker drives it: `add` what was consumed, `step` to get the requests that must be scored now, `take_answer` to hand
back each answer, `take_results` to collect what the windows decided, `commit` to make all of it durable together.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.example import Example
from state.behavior import BehaviorArray, category_key, checksum, item_key
from state.partition import Partition
from stream.runtime.logs import log
from stream.schema.erasures import EraseMarker, ErasureLog, Voids
from stream.schema.events import Behavior, Impression, RequestKey, SequenceName, Withdrawal
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.position import Origin
from stream.schema.record import Record, RecordBatch, RefusedRecord
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.answer import Answer, RecoveredAnswers
from stream.task.behavior_columns import BehaviorColumns
from stream.task.decode import UnitCensus
from stream.task.features import features_of
from stream.task.fold import SequenceFold
from stream.task.labels import Result
from stream.task.record_queue import Entry, RecordQueue
from stream.task.resume import ResumePoint
from stream.task.windows import AttributionWindows

_logger = logging.getLogger("samstream.task")

MAX_REQUESTS = 16
"""Impressions of one step: more would keep the worker from polling, committing and taking updates."""


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """An impression to be scored, with the sequence as it stands.

    Attributes:
        impression: the request.
        example: what the model reads.
        sequence: names that sequence.
        record: where the impression was read.
        state_ms: milliseconds that reading the sequence took.
    """

    impression: Impression
    example: Example
    sequence: SequenceName
    record: Record
    state_ms: float


class Clocks(NamedTuple):
    """How far a partition has come by two clocks.

    Attributes:
        record_ms: Kafka timestamp (ms) of the newest impression or click; behaviours may be of any age.
        event_ms: event time, ms.
    """

    record_ms: int
    event_ms: int


class _Reached(NamedTuple):
    """Offset and Kafka timestamp (ms) of a record."""

    offset: int
    timestamp: int


class Task:
    """One partition number of the three input topics.

    Args:
        partition: the state.
        topics: the topic names.
        settings: windows and limits.
        resume: the offsets it begins at, and the answers that were given beyond what the state knows.
        features: packs the features of callers.
        partitions: how many partitions the topics have.
        erasures: of the partition; what is void is neither folded, nor labelled, nor kept.
        formats: of the topics; records are added when they are ready for them.
    """

    def __init__(
        self,
        partition: Partition,
        topics: Topics,
        settings: WorkerSettings,
        resume: ResumePoint,
        features: FeatureSchema = NO_FEATURES,
        *,
        partitions: int = 1,
        erasures: ErasureLog | None = None,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self.partition = partition
        """The state."""
        self._topics = topics
        self._max_impression_age_ms = settings.max_impression_age_s * 1000
        self._resume = resume
        self._last: dict[str, _Reached] = {}  # topic → the record processed last
        self._recovered: RecoveredAnswers[Entry] = RecoveredAnswers(
            resume, behaviors_end=resume.ends[topics.behaviors], slack_ms=1000 * settings.max_future_s
        )
        self._features = features
        self._queue = RecordQueue(
            topics, settings, self._recovered, resume.offsets, features, partitions=partitions, formats=formats
        )
        if resume.stale_state:
            for key, _ in list(partition.pending.items()):
                partition.pending.delete(key)
        self._fold = SequenceFold(partition)
        self._voids = Voids(ErasureLog() if erasures is None else erasures)
        self._windows = AttributionWindows(partition, settings, features.layout)
        self._refused: list[RefusedRecord] = []
        self._withdrawn: set[RequestKey] = set()
        """Requests that were withdrawn in the step in which they are to be scored: their windows are not open yet."""
        self._counts: Counter[str] = Counter(records_missing=resume.missing)
        self.processed = 0
        """Records processed."""
        self._at_rest = False
        # Of a state that the group has not heard of, the first commit is due at once.
        self._committed = -1 if resume.group_behind else 0
        self._erasures_committed = partition.offsets.get(topics.erasures, 0)
        self._take_erasures()

    @property
    def changed(self) -> bool:
        """Whether there is something to commit."""
        unsaved = self._windows.unsaved or self._voids.position != self._erasures_committed
        return self.processed > self._committed or unsaved

    @property
    def erased_to(self) -> int:
        """The offset of `erasures` below which all is done: nothing of it is in the state or its files."""
        return 0 if self.partition.unpurged else self._erasures_committed

    @property
    def offsets(self) -> dict[str, int]:
        """Topic → the next offset to be processed; of `scores`, the one behind our last answer that Kafka has."""
        reached = {topic: record.offset + 1 for topic, record in self._last.items()}
        # While answers wait for their impressions to be read again, a crash must find them again.
        if (scores := self._recovered.scores_offset) is not None:
            reached[self._topics.scores] = scores
        return self._resume.offsets | reached

    @property
    def origins(self) -> dict[str, str]:
        """Topic → what its offset is an offset of, as text; see `stream.schema.position`."""
        timestamps = self._timestamps()
        return {topic: Origin(log, timestamps.get(topic, -1)).encode() for topic, log in self._resume.logs.items()}

    def positions(self) -> Iterator[tuple[str, int, int]]:
        """Yield topic, next offset, and the Kafka timestamp (ms) of the record before it, where that is known."""
        for topic, timestamp in self._timestamps().items():
            yield topic, self._next_offset(topic), timestamp

    @property
    def ends(self) -> dict[str, int]:
        """Topic → where it ended when work on it began."""
        return self._resume.ends

    @property
    def recovered_answers(self) -> int:
        """Answers given before that wait for their impressions to be read again."""
        return len(self._recovered)

    @property
    def open_requests(self) -> int:
        """Impressions whose window is open."""
        return len(self._windows)

    @property
    def units(self) -> UnitCensus:
        """What unit the times of its records seem to have."""
        return self._queue.units

    @property
    def clocks(self) -> Clocks | None:
        """How far it has come in time; None while no impression or click was processed."""
        asked = (self._topics.impressions, self._topics.clicks)
        newest = max((self._last[topic].timestamp for topic in asked if topic in self._last), default=-1)
        return Clocks(newest, self._windows.event_time) if newest >= 0 and self._windows.event_time else None

    @property
    def counts(self) -> Counter[str]:
        """What happened, by name; for logs and metrics."""
        own = Counter(behaviors=self._fold.behaviors, released_unaligned=self._queue.forced)
        own.update({f"feature_missing:{name}": count for name, count in self._features.missing.items()})
        return self._counts + self._windows.counts + own

    @property
    def buffered(self) -> int:
        """Records that were added and are not processed yet."""
        return len(self._queue)

    def backlog(self, topic: str) -> int:
        """Return how many records of a topic were added and are not processed yet."""
        return self._queue.backlog(topic)

    def sequence(self, user: str) -> BehaviorArray:
        """Return the user's sequence as it stands, (L,) behaviours, oldest first."""
        return self._fold.read(user)

    def add(self, batch: RecordBatch) -> None:
        """Take consumed records; see `RecordQueue.add`."""
        self._queue.add(batch)

    def step(
        self, at_end: Callable[[str], bool], *, now: float, wall_ms: int, limit: int, drained: bool = True
    ) -> list[ScoringRequest]:
        """Process up to `limit` records in time order, fewer when many are impressions; returns what must be scored.

        Args:
            at_end: whether a topic of this partition has been read to its end.
            now: monotonic clock, seconds.
            wall_ms: wall clock, milliseconds since the epoch.
            limit: the most records to process.
            drained: whether all that the client had was added. Until then no topic is taken to bring nothing.
        """
        if self._at_rest and not self._queue and not self._voids.waiting:
            return []  # as in the step before: most partitions have nothing to do in most turns
        self._take_erasures()
        windows, last, before, voids = self._windows, self._last, self.processed, self._voids
        requests: list[ScoringRequest] = []
        for entry in self._queue.release(at_end, self._folded, now=now, limit=limit, drained=drained):
            if isinstance(entry, BehaviorColumns):
                self._take_behaviors(entry)
                continue
            record, event = entry
            last[record.topic] = _Reached(record.offset, record.timestamp)
            self.processed += 1
            if isinstance(event, Exception):
                self._refuse([RefusedRecord(record, str(event))])
                continue
            if event.ts > windows.event_time:
                windows.event_time = event.ts
            if isinstance(event, Behavior):
                if not voids.by_user or not voids.behavior(event.user, record.offset):
                    self._fold.add(event)
                else:
                    self._counts["behaviors_of_erased_users"] += 1
            elif isinstance(event, Impression):
                requests += self._impression(event, record, wall_ms)
                if len(requests) >= MAX_REQUESTS:
                    break
            elif isinstance(event, Withdrawal):
                self._withdraw(event.request, requests)
            elif isinstance(event, EraseMarker):
                voids.mark(event.user, record.offset)
                self._windows.erase(voids, [event.user])
                self.partition.mark_erased([event.user])
                self._counts["erase_markers"] += 1
                self._counts["erased_sequences"] += self._fold.erase([event.user])
            elif voids.click(event.user, record.offset):
                self._counts["clicks_of_erased_users"] += 1
            else:
                self._refuse(windows.click(event, record))
                self._counts["clicks"] += 1
        self._at_rest = self.processed == before
        windows.note_step(now, worked=not self._at_rest)
        if self._next_offset(self._topics.impressions) >= self._resume.ends[self._topics.impressions]:
            self._recovered.drop()
        return requests

    def take_answer(self, request: ScoringRequest, answer: Answer) -> None:
        """Take the answer to a request: its attribution window opens."""
        withdrawn = request.impression.request in self._withdrawn
        self._withdrawn.discard(request.impression.request)
        self._open(request.impression, request.example.categories, request.sequence, answer, withdrawn=withdrawn)

    def acknowledge_score(self, offset: int) -> None:
        """Tell that Kafka has an answer of this task at this offset of `scores`."""
        self._recovered.acknowledge(offset)

    def waits_for_event_time(self, now: float) -> bool:
        """Say whether windows wait for an event time that no record brings: ask Kafka, then `advance_idle_time`."""
        return self._windows.is_idle(now) and not self.buffered

    def advance_idle_time(self, now: float) -> None:
        """Let event time run on at the speed of the wall clock; only for a partition known to be read to its end."""
        self._refuse(self._windows.advance_idle_time(now))

    def take_results(self) -> tuple[list[Result], list[RefusedRecord]]:
        """Return the samples and outcomes, and the refused records, that came up since the last call."""
        if due := self._windows.close_due():
            self._refuse(due)
        refused, self._refused = self._refused, []
        return self._windows.take_results(), refused

    def commit(self) -> None:
        """Make state and offsets durable together; call it when Kafka has acknowledged all that came of them."""
        self._fold.flush()
        self._windows.save()
        erasures = self._voids.position
        heard = {self._topics.erasures: erasures} if erasures else {}
        self.partition.commit(self.offsets | heard, self.origins)
        self._committed, self._erasures_committed = self.processed, erasures

    def close(self) -> None:
        """Close the state; what was not committed is dropped and will be read again."""
        self.partition.close()

    def _next_offset(self, topic: str) -> int:
        last = self._last.get(topic)
        return self._resume.offsets[topic] if last is None else last.offset + 1

    def _folded(self) -> int:
        """Return the offset up to which `behaviors` are folded."""
        return self._next_offset(self._topics.behaviors)

    def _timestamps(self) -> dict[str, int]:
        return self._resume.timestamps | {topic: record.timestamp for topic, record in self._last.items()}

    def _take_behaviors(self, columns: BehaviorColumns) -> None:
        self._last[columns.topic] = _Reached(int(columns.offsets[-1]), int(columns.timestamps[-1]))
        self.processed += len(columns)
        self._windows.event_time = max(self._windows.event_time, int(columns.times.max()))
        kept = columns.kept(self._voids)
        if void := len(columns) - len(kept):
            self._counts["behaviors_of_erased_users"] += void
        self._fold.add_columns(kept)

    def _impression(self, event: Impression, record: Record, wall_ms: int) -> list[ScoringRequest]:
        """Return the request to score an impression; nothing when it was answered, or is too old."""
        categories = np.array([category_key(candidate.category) for candidate in event.candidates], dtype=np.uint32)
        given = self._recovered.take(event, record.timestamp)
        if given is not None:
            self._open(event, categories, given.sequence, Answer.recovered(given))
            self._counts["answers_recovered"] += 1
            return []
        if record.offset < self._resume.committed_impressions:
            return []
        if wall_ms - record.timestamp > self._max_impression_age_ms:
            self._counts["impressions_too_old"] += 1
            return []
        began = time.perf_counter()
        sequence = self._fold.read(event.user)
        state_ms = (time.perf_counter() - began) * 1000
        items = np.array([item_key(candidate.item) for candidate in event.candidates], dtype=np.uint64)
        context, attributes = features_of(event, self._features.layout) if self._features else (None, None)
        example = Example(sequence, event.ts, items, categories, context=context, attributes=attributes)
        self._counts["impressions"] += 1
        name = SequenceName(self._fold.count(event.user), self._folded(), checksum(sequence))
        return [ScoringRequest(event, example, name, record, state_ms)]

    def _open(
        self,
        impression: Impression,
        categories: npt.NDArray[np.uint32],
        sequence: SequenceName,
        answer: Answer,
        *,
        withdrawn: bool = False,
    ) -> None:
        """Open the window of an answer; not of one to a user who was erased since, of which nothing is learned."""
        if self._voids.answer(impression.user, sequence.read_to):
            self._counts["impressions_of_erased_users"] += 1
        else:
            self._refuse(self._windows.open(impression, categories, sequence, answer, withdrawn=withdrawn))

    def _take_erasures(self) -> None:
        """Erase the users of whom this was heard since the last call."""
        if self._voids.waiting:
            new = self._voids.take()
            self._windows.erase(self._voids, {each.user for each in new})
            # Whose marker is folded has begun anew already.
            known = self._fold.erase({each.user for each in new if each.void.behaviors >= self._folded()})
            if unheard := {each.user for each in new if each.offset >= self._erasures_committed}:
                self.partition.mark_erased(unheard)
                self._counts["erasures"] += len(unheard)
                self._counts["erased_sequences"] += known
                log(_logger, "erased", users=len(unheard), sequences=known, erasures=self._voids.position)

    def _withdraw(self, withdrawn: RequestKey, requests: list[ScoringRequest]) -> None:
        if any(request.impression.request == withdrawn for request in requests):
            self._withdrawn.add(withdrawn)
        else:
            self._windows.withdraw(withdrawn)

    def _refuse(self, refused: list[RefusedRecord]) -> None:
        self._refused += refused
        self._counts["refused"] += len(refused)

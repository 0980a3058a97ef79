"""The work on one partition number: fold behaviours, ask for scores, join clicks. Knows records, but no Kafka client.

The worker drives it: `add` what was consumed, `step` to get the requests that must be scored now, `take_answer` to hand
back each answer, `take_results` to collect what the windows decided, `commit` to make all of it durable together.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.example import Example
from state.behavior import BehaviorArray, category_key, item_key
from state.partition import Partition
from stream.errors import WorkerError
from stream.schema.events import DECODE_ERRORS, Behavior, Click, Impression, Outcome, Sample
from stream.schema.position import Origin
from stream.schema.record import HasHeaders, Record
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.answer import Answer, RecoveredAnswers
from stream.task.decode import Event, RecordDecoder, UnitCensus
from stream.task.fold import SequenceFold
from stream.task.joiner import Joiner, LabelledItems, PendingImpression, UnmatchedClick
from stream.task.labels import merge_labels, samples_and_outcomes
from stream.task.merge import Merge
from stream.task.resume import ResumePoint

MAX_REQUESTS = 16
"""Impressions of one step: more would keep the worker from polling, committing and taking updates."""

Entry = tuple[Record, Event | Exception]
"""A record with what it says, or with why it cannot be used."""


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """An impression to be scored, with the sequence as it stands.

    Attributes:
        impression: what is asked.
        example: what the model reads.
        seen: the user's running count of behaviours.
        read_to: the offset up to which `behaviors` were folded.
        record: where the impression was read.
        state_ms: what reading the sequence took.
    """

    impression: Impression
    example: Example
    seen: int
    read_to: int
    record: Record
    state_ms: float


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that cannot be used, and why: it goes to the dead letters."""

    record: Record
    reason: str


class Task:
    """One partition number of the three input topics.

    Args:
        partition: the state.
        topics: the topic names.
        settings: windows and limits.
        resume: the offsets it begins at, and the answers that were given beyond what the state knows.
        partitions: how many partitions the topics have.
    """

    def __init__(
        self,
        partition: Partition,
        topics: Topics,
        settings: WorkerSettings,
        resume: ResumePoint,
        *,
        partitions: int = 1,
    ) -> None:
        self.partition = partition
        """The state."""
        self._topics = topics
        self._settings = settings
        self._resume = resume
        self._recovered: RecoveredAnswers[Entry] = RecoveredAnswers(resume, behaviors_end=resume.ends[topics.behaviors])
        self._offsets = dict(resume.offsets)
        self._timestamps = dict(resume.timestamps)
        self._added = dict(resume.offsets)
        self._decoder = RecordDecoder(topics, settings, partitions=partitions)
        if resume.stale_state:
            for key, _ in list(partition.pending.items()):
                partition.pending.delete(key)
        self._joiner = Joiner(
            partition.pending,
            window_ms=round(settings.attribution_window_s * 1000),
            lateness_ms=round(settings.allowed_lateness_s * 1000),
        )
        # An impression goes before a behaviour of the same millisecond: no model may see what came of its answer.
        self._merge: Merge[Entry] = Merge(
            (topics.impressions, topics.clicks, topics.behaviors), patience=settings.max_topic_wait_s
        )
        self._fold = SequenceFold(partition.sequences)
        self._newest_ts: dict[str, int] = {}
        self._labelled: list[LabelledItems] = []
        self._refused: list[RefusedRecord] = []
        self._event_time = self._joiner.event_time
        self._active_at: float | None = None
        self.changed = False
        """Whether there is something to commit."""
        self.processed = 0
        """Records worked off."""
        self._counts: Counter[str] = Counter(records_missing=resume.missing)

    @property
    def offsets(self) -> dict[str, int]:
        """Topic → the next offset to be processed; of `scores`, the one behind our last answer that Kafka has."""
        # While answers wait for their impressions to be read again, a crash must find them again.
        scores = self._recovered.scores_offset
        return self._offsets if scores is None else self._offsets | {self._topics.scores: scores}

    @property
    def origins(self) -> dict[str, str]:
        """Topic → what its offset is an offset of, as text; see `stream.schema.position`."""
        return {
            topic: Origin(log, self._timestamps.get(topic, -1)).encode() for topic, log in self._resume.logs.items()
        }

    def positions(self) -> Iterator[tuple[str, int, int]]:
        """Yield topic, next offset, and the Kafka timestamp (ms) of the record before it, where that is known."""
        for topic, timestamp in self._timestamps.items():
            yield topic, self._offsets[topic], timestamp

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
        return len(self._joiner)

    @property
    def units(self) -> UnitCensus:
        """What unit the times of its records seem to have."""
        return self._decoder.units

    @property
    def counts(self) -> Counter[str]:
        """What happened, by name; for logs and metrics."""
        return self._counts + Counter(
            behaviors=self._fold.behaviors,
            duplicate_clicks=self._joiner.duplicate_clicks,
            duplicate_impressions=self._joiner.duplicate_impressions,
            conflicting_impressions=self._joiner.conflicting_impressions,
            released_unaligned=self._merge.forced,
        )

    @property
    def buffered(self) -> int:
        """Records that were added and are not processed yet."""
        return len(self._merge) + self._recovered.held

    def backlog(self, topic: str) -> int:
        """Return how many records of a topic were added and are not processed yet."""
        return self._merge.backlog(topic)

    def sequence(self, user: str) -> BehaviorArray:
        """Return the user's sequence as it stands, (L,) behaviours, oldest first."""
        return self._fold.read(user)

    def add(self, record: Record, message: HasHeaders | None = None) -> None:
        """Take a consumed record; one that cannot be used keeps its place in the order and is refused in its turn.

        Args:
            record: what was consumed.
            message: asked for the headers of a record that is, or may later be, refused.

        Raises:
            WorkerError: for an offset that was there before: the log is another one.
        """
        if record.offset < self._added[record.topic]:
            raise WorkerError(
                f"{record.topic}/{record.partition} went back from offset {self._added[record.topic]} to"
                f" {record.offset}: its log was cut or made anew. Stop the workers, move their state away, start again."
            )
        self._added[record.topic] = record.offset + 1
        event: Event | Exception
        try:
            event = self._decoder.decode(record)
            self._newest_ts[record.topic] = event.ts
        except DECODE_ERRORS as error:
            event = error
        if message is not None and isinstance(event, (Exception, Click)):
            record = record.with_headers(message)
        self._merge.add(record.topic, self._newest_ts.get(record.topic, 0), (record, event))

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
        if self._active_at is None:
            self._active_at = now
        before = self.processed
        requests: list[ScoringRequest] = []
        for record, event in self._in_order(at_end, now, limit, drained=drained):
            self._offsets[record.topic] = record.offset + 1
            self._timestamps[record.topic] = record.timestamp
            self.processed += 1
            if isinstance(event, Exception):
                self._refuse(record, str(event))
                continue
            self._event_time = max(self._event_time, event.ts)
            if isinstance(event, Behavior):
                self._fold.add(event)
            elif isinstance(event, Impression):
                requests += self._impression(event, record, wall_ms)
                if len(requests) >= MAX_REQUESTS:
                    break
            else:
                self._take_labels(self._joiner.click(event, record))
                self._counts["clicks"] += 1
        if self.processed > before:
            self._active_at = now
            self.changed = True
        if self._offsets[self._topics.impressions] >= self._resume.ends[self._topics.impressions]:
            self._recovered.drop()
        return requests

    def take_answer(self, request: ScoringRequest, answer: Answer) -> None:
        """Take the answer to a request: its attribution window opens."""
        self._open_window(request.impression, request.example.categories, request.seen, answer)

    def acknowledge_score(self, offset: int) -> None:
        """Take note that Kafka has an answer of this task at this offset of `scores`."""
        self._recovered.acknowledge(offset)

    def waits_for_event_time(self, now: float) -> bool:
        """Say whether windows wait for an event time that no record brings: ask Kafka, then `advance_idle_time`."""
        idle = self._active_at is not None and now - self._active_at > self._settings.idle_timeout_s
        return idle and self._joiner.waiting and not self.buffered

    def advance_idle_time(self, now: float) -> None:
        """Let event time run on at the speed of the wall clock; only for a partition known to be read to its end."""
        silent_s = 0.0 if self._active_at is None else now - self._active_at
        self._take_labels(self._joiner.advance(self._event_time + round(silent_s * 1000)))

    def take_results(self) -> tuple[list[tuple[Sample, Outcome]], list[RefusedRecord]]:
        """Return the samples with their outcomes, and the refused records, that came up since the last call.

        Labels of one request that came up together travel as one sample, or one for each team that placed them.
        """
        self._take_labels(self._joiner.advance(self._event_time))
        labelled, self._labelled = merge_labels(self._labelled), []
        refused, self._refused = self._refused, []
        return [pair for each in labelled for pair in self._samples(each)], refused

    def commit(self) -> None:
        """Make state and offsets durable together; call it when Kafka has acknowledged all that came of them."""
        self._fold.flush()
        self._joiner.save()
        self.partition.commit(self.offsets, self.origins)
        self.changed = False

    def close(self) -> None:
        """Close the state; what was not committed is dropped and will be read again."""
        self.partition.close()

    def _in_order(self, at_end: Callable[[str], bool], now: float, limit: int, *, drained: bool) -> Iterable[Entry]:
        """Return the entries that may be processed now, in time order."""
        recovering = bool(self._recovered) or bool(self._recovered.held)
        # Recovered answers find the sequence that they were given for only in the order of then.
        strict = bool(self._recovered) or not drained
        entries = self._merge.drain(at_end, now, limit, strict=strict)
        if not recovering:
            return entries
        behaviors = self._topics.behaviors
        return self._recovered.in_answer_order(
            entries,
            lambda entry: entry[1] if isinstance(entry[1], Impression) else None,
            folded=lambda: self._offsets[behaviors],
            next_behavior=lambda: self._merge.pop(behaviors) if self._merge.backlog(behaviors) else None,
        )

    def _impression(self, event: Impression, record: Record, wall_ms: int) -> list[ScoringRequest]:
        """Return the request to score an impression; nothing when it was answered, or is too old."""
        categories = np.array([category_key(candidate.category) for candidate in event.candidates], dtype=np.uint32)
        score = self._recovered.take(event)
        if score is not None:
            self._open_window(event, categories, score.seen, Answer.from_score(score))
            self._counts["answers_recovered"] += 1
            return []
        if record.offset < self._resume.committed_impressions:
            return []
        if wall_ms - record.timestamp > self._settings.max_impression_age_s * 1000:
            self._counts["impressions_too_old"] += 1
            return []
        began = time.perf_counter()
        sequence = self._fold.read(event.user)
        state_ms = (time.perf_counter() - began) * 1000
        items = np.array([item_key(candidate.item) for candidate in event.candidates], dtype=np.uint64)
        example = Example(sequence, event.ts, items, categories)
        read_to = self._offsets[self._topics.behaviors]
        self._counts["impressions"] += 1
        return [ScoringRequest(event, example, self._fold.count(event.user), read_to, record, state_ms)]

    def _open_window(
        self, impression: Impression, categories: npt.NDArray[np.uint32], seen: int, answer: Answer
    ) -> None:
        ranks = np.empty(len(answer.order), dtype=np.intp)
        ranks[answer.order] = np.arange(len(answer.order))
        pending = PendingImpression(
            request_id=impression.request_id,
            user=impression.user,
            arm=answer.arm,
            ts=impression.ts,
            epoch=answer.epoch,
            version=answer.version,
            # A recovered answer may have counted behaviours that Kafka no longer has.
            seen=min(seen, self._fold.count(impression.user)),
            slots=impression.slots,
            items=[candidate.item for candidate in impression.candidates],
            categories=categories.tolist(),
            probabilities=answer.probabilities.tolist(),
            ranks=ranks.tolist(),
            clicked=bytearray(len(ranks)),
            teams=list(answer.teams),
        )
        self._take_labels(self._joiner.impression(pending))

    def _take_labels(self, results: Iterable[LabelledItems | UnmatchedClick]) -> None:
        for result in results:
            self.changed = True
            if isinstance(result, UnmatchedClick):
                self._refuse(result.origin, result.reason)
            else:
                self._labelled.append(result)

    def _refuse(self, record: Record, reason: str) -> None:
        self._refused.append(RefusedRecord(record, reason))
        self._counts["refused"] += 1

    def _samples(self, labelled: LabelledItems) -> Iterator[tuple[Sample, Outcome]]:
        pending = labelled.pending
        sequence = self._fold.read(pending.user, pending.seen)
        if len(sequence) < min(pending.seen, self.partition.meta.length):
            self._counts["sequences_cut"] += 1
        self._counts["samples"] += len(labelled.indices)
        return samples_and_outcomes(labelled, sequence)

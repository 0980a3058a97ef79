"""The work on one partition number: fold behaviours, ask for scores, join clicks. Knows records, but no Kafka client.

The worker drives it: `add` what was consumed, `step` to get the requests that must be scored now, `scored` to hand back
each answer, `settle` to collect what the windows decided, `commit` to make all of it durable together.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from model.example import Example
from state.behavior import BehaviorArray, action_key, category_key, from_bytes, item_key, pack
from state.partition import Partition
from stream.errors import WorkerError
from stream.schema.events import UNREADABLE, Behavior, Impression, Outcome, Sample
from stream.schema.record import Record
from stream.schema.topics import Topics
from stream.settings import WorkerSettings
from stream.task.answer import Answer
from stream.task.decode import Admission, Event
from stream.task.joiner import Joiner, Labelled, Orphan, Pending
from stream.task.labels import records, together
from stream.task.merge import Merge
from stream.task.resume import Start

_REQUESTS = 16
"""Impressions of one step: more would keep the worker from polling, committing and taking updates."""


@dataclass(frozen=True, slots=True)
class Request:
    """An impression to be scored, with the sequence as it stands.

    `seen` is the user's running count of behaviours, `read_to` the offset up to which they were folded, `state_ms`
    what reading the sequence took.
    """

    impression: Impression
    example: Example
    seen: int
    read_to: int
    record: Record
    state_ms: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that cannot be used, and why: it goes to the dead letters."""

    record: Record
    reason: str


class Task:
    """One partition number of the three input topics.

    Args:
        partition: the state.
        topics: the topic names.
        settings: windows and limits.
        start: the offsets it begins at, and the answers that were given beyond what the state knows. A request
            among them is not scored again: what was shown is what is learned from.
        partitions: how many partitions the topics have.
    """

    def __init__(
        self,
        partition: Partition,
        topics: Topics,
        settings: WorkerSettings,
        start: Start,
        *,
        partitions: int = 1,
    ) -> None:
        self._partition = partition
        self._topics = topics
        self._settings = settings
        self._start = start
        self._answers = dict(start.answers)
        self._answers_end = start.answers_end
        self._offsets = dict(start.offsets)
        self._added = dict(start.offsets)
        self._admission = Admission(topics, settings, partitions=partitions)
        if start.overtaken:
            # Another worker went on from here: what is open of its windows is found in `scores`.
            for key, _ in list(partition.pending.items()):
                partition.pending.delete(key)
        self._joiner = Joiner(
            partition.pending,
            window_ms=round(settings.attribution_window_s * 1000),
            lateness_ms=round(settings.lateness_s * 1000),
        )
        # An impression goes before a behaviour of the same millisecond: no model may see what came of its answer.
        self._merge: Merge[tuple[Record, Event | Exception]] = Merge(
            (topics.impressions, topics.clicks, topics.behaviors), patience=settings.align_s
        )
        self._held: list[tuple[Record, Event | Exception]] = []
        self._last: dict[str, int] = {}
        self._fresh: dict[str, bytearray] = {}
        self._requests: list[Request] = []
        self._decided: list[Labelled] = []
        self._refused: list[Refused] = []
        self._event_time = self._joiner.event_time
        self._active: float | None = None
        self._wall_ms = 0
        self.changed = False
        """Whether there is something to commit."""
        self.processed = 0
        """Records worked off."""
        self._counts: Counter[str] = Counter()
        self._behaviors = 0

    @property
    def offsets(self) -> dict[str, int]:
        """Topic → the next offset to be processed; of `scores`, the one behind our last answer that Kafka has."""
        # While answers wait for their impressions to be read again, a crash must find them again.
        return self._offsets | ({} if self._answers else {self._topics.scores: self._answers_end})

    @property
    def ends(self) -> dict[str, int]:
        """Topic → where it ended when work on it began."""
        return self._start.ends

    @property
    def partition(self) -> Partition:
        """The state."""
        return self._partition

    def sequence(self, user: str) -> BehaviorArray:
        """Return the user's sequence as it stands, (L,) behaviours, oldest first."""
        self._append(user)
        return self._partition.sequences.read(user)

    @property
    def recoverable(self) -> int:
        """Answers given before that wait for their impressions to be read again."""
        return len(self._answers)

    def answer_is_in(self, offset: int) -> None:
        """Take note that Kafka has an answer of ours at this offset of `scores`."""
        self._answers_end = max(self._answers_end, offset + 1)

    @property
    def open_requests(self) -> int:
        """Impressions whose window is open."""
        return len(self._joiner)

    @property
    def counts(self) -> Counter[str]:
        """What happened, by name; for logs and metrics."""
        return self._counts + Counter(
            behaviors=self._behaviors,
            duplicate_clicks=self._joiner.duplicate_clicks,
            duplicate_impressions=self._joiner.duplicate_impressions,
            released_unaligned=self._merge.forced,
        )

    @property
    def in_hand(self) -> int:
        """Records that were added and are not processed yet."""
        return len(self._merge) + len(self._held)

    def backlog(self, topic: str) -> int:
        """Return how many records of a topic were added and are not processed yet."""
        return self._merge.backlog(topic)

    def add(self, record: Record) -> None:
        """Take a consumed record; one that cannot be used keeps its place in the order and is refused in its turn.

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
            event = self._admission.event(record)
            self._last[record.topic] = event.ts
        except UNREADABLE as error:
            event = error
        self._merge.add(record.topic, self._last.get(record.topic, 0), (record, event))

    def step(
        self, at_end: Callable[[str], bool], *, now: float, wall_ms: int, limit: int, drained: bool = True
    ) -> list[Request]:
        """Process up to `limit` records in time order, fewer when many are impressions; returns what must be scored.

        Args:
            at_end: whether a topic of this partition has been read to its end.
            now: monotonic clock, seconds.
            wall_ms: wall clock, milliseconds since the epoch.
            limit: the most records to process.
            drained: whether all that the client had was added. Until then no topic is taken to bring nothing.
        """
        self._wall_ms = wall_ms
        if self._active is None:
            self._active = now
        before = self.processed
        # Answers given before find the sequence that they were given for only in the order of then.
        strict = bool(self._answers) or not drained
        in_order: Iterable[tuple[Record, Event | Exception]] = self._merge.drain(at_end, now, limit, strict=strict)
        if self._answers or self._held:
            in_order = self._released(in_order)
        for record, event in in_order:
            self._offsets[record.topic] = record.offset + 1
            self.processed += 1
            if isinstance(event, Exception):
                self._refuse(record, str(event))
                continue
            if event.ts > self._event_time:
                self._event_time = event.ts
            if isinstance(event, Behavior):
                self._behavior(event)
            elif isinstance(event, Impression):
                self._impression(event, record)
                if len(self._requests) >= _REQUESTS:
                    break
            else:
                self._take(self._joiner.click(event, record))
                self._counts["clicks"] += 1
        if self.processed > before:
            self._active = now
            self.changed = True
        if self._offsets[self._topics.impressions] >= self._start.ends[self._topics.impressions]:
            self._answers.clear()
        requests, self._requests = self._requests, []
        return requests

    def scored(self, request: Request, answer: Answer) -> None:
        """Take the answer to a request: its attribution window opens."""
        self._open(request.impression, request.example.categories, request.seen, answer)

    def waits_idle(self, now: float) -> bool:
        """Say whether windows wait for an event time that no record brings: ask Kafka, then `pass_time`."""
        silent = self._active is not None and now - self._active > self._settings.idle_s
        return silent and self._joiner.waiting and not self.in_hand

    def pass_time(self, now: float) -> None:
        """Let event time run on at the speed of the wall clock; only for a partition known to be read to its end."""
        silent_s = 0.0 if self._active is None else now - self._active
        self._take(self._joiner.advance(self._event_time + round(silent_s * 1000)))

    def settle(self) -> tuple[list[tuple[Sample, Outcome]], list[Refused]]:
        """Return the samples with their outcomes, and the refused records, that came up since the last call.

        Labels of one request that came up together travel as one sample, or one for each team that placed them.
        """
        self._take(self._joiner.advance(self._event_time))
        decided, self._decided = together(self._decided), []
        refused, self._refused = self._refused, []
        return [pair for labelled in decided for pair in self._records(labelled)], refused

    def commit(self) -> None:
        """Make state and offsets durable together; call it when Kafka has acknowledged all that came of them."""
        self._append_all()
        self._joiner.save()
        self._partition.commit(self.offsets)
        self.changed = False

    def close(self) -> None:
        """Close the state; what was not committed is dropped and will be read again."""
        self._partition.close()

    def _released(
        self, in_order: Iterable[tuple[Record, Event | Exception]]
    ) -> Iterator[tuple[Record, Event | Exception]]:
        """Yield records in order; before an impression that was answered once, all behaviours that its answer knew.

        The impression may have reached Kafka after behaviours that are younger by their time.
        """
        for record, event in chain(self._held, in_order):
            known = self._known_to_its_answer(event)
            while self._offsets[self._topics.behaviors] < known:
                self._held = [(record, event)]
                if not self._merge.backlog(self._topics.behaviors):
                    return
                yield self._merge.pop(self._topics.behaviors)
            self._held = []
            yield record, event

    def _known_to_its_answer(self, event: Event | Exception) -> int:
        """Return the offset of `behaviors` up to which the answer given before to an impression had read."""
        given = self._answers.get(event.request_id) if isinstance(event, Impression) else None
        return min(given.read_to, self._start.ends[self._topics.behaviors]) if given else 0

    def _behavior(self, event: Behavior) -> None:
        packed = pack(item_key(event.item), category_key(event.category), action_key(event.action), event.ts)
        if known := self._fresh.get(event.user):
            known += packed
        else:
            self._fresh[event.user] = bytearray(packed)
        self._behaviors += 1

    def _impression(self, event: Impression, record: Record) -> None:
        categories = np.array([category_key(candidate.category) for candidate in event.candidates], dtype=np.uint32)
        given = self._answers.get(event.request_id)
        if given is not None and (given.user, given.items) == (
            event.user,
            [candidate.item for candidate in event.candidates],
        ):
            del self._answers[event.request_id]
            self._append(event.user)
            self._open(event, categories, given.seen, Answer.given(given))
            self._counts["answers_recovered"] += 1
            return
        if record.offset < self._start.answered:
            return
        if self._wall_ms - record.timestamp > self._settings.max_impression_age_s * 1000:
            self._counts["impressions_too_old"] += 1
            return
        sequences = self._partition.sequences
        began = time.perf_counter()
        sequence = self.sequence(event.user)
        state_ms = (time.perf_counter() - began) * 1000
        items = np.array([item_key(candidate.item) for candidate in event.candidates], dtype=np.uint64)
        example = Example(sequence, event.ts, items, categories)
        read_to = self._offsets[self._topics.behaviors]
        self._requests.append(Request(event, example, sequences.count(event.user), read_to, record, state_ms))
        self._counts["impressions"] += 1

    def _open(self, impression: Impression, categories: npt.NDArray[np.uint32], seen: int, answer: Answer) -> None:
        ranks = np.empty(len(answer.order), dtype=np.intp)
        ranks[answer.order] = np.arange(len(answer.order))
        pending = Pending(
            request_id=impression.request_id,
            user=impression.user,
            arm=answer.arm,
            ts=impression.ts,
            epoch=answer.epoch,
            version=answer.version,
            # A recovered answer may have counted behaviours that Kafka no longer has.
            seen=min(seen, self._partition.sequences.count(impression.user)),
            slots=impression.slots,
            items=[candidate.item for candidate in impression.candidates],
            categories=categories.tolist(),
            probabilities=answer.probabilities.tolist(),
            ranks=ranks.tolist(),
            clicked=bytearray(len(ranks)),
            teams=list(answer.teams),
        )
        self._take(self._joiner.impression(pending))

    def _append(self, user: str) -> None:
        if packed := self._fresh.pop(user, None):
            self._partition.sequences.append(user, from_bytes(packed))

    def _append_all(self) -> None:
        for user, packed in self._fresh.items():
            self._partition.sequences.append(user, from_bytes(packed))
        self._fresh.clear()

    def _take(self, results: Iterable[Labelled | Orphan]) -> None:
        for result in results:
            self.changed = True
            if isinstance(result, Orphan):
                self._refuse(result.origin, result.reason)
            else:
                self._decided.append(result)

    def _refuse(self, record: Record, reason: str) -> None:
        self._refused.append(Refused(record, reason))
        self._counts["refused"] += 1

    def _records(self, labelled: Labelled) -> Iterator[tuple[Sample, Outcome]]:
        pending = labelled.pending
        self._append(pending.user)
        sequence = self._partition.sequences.read(pending.user, pending.seen)
        if len(sequence) < min(pending.seen, self._partition.meta.length):
            self._counts["sequences_cut"] += 1
        self._counts["samples"] += len(labelled.indices)
        return records(labelled, sequence)

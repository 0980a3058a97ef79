"""Real data as a stream: each visit is asked before its truth is revealed, so that the whole loop runs through Kafka.

Impression → score → clicks → samples → updates. Event time is the data's own and runs far faster than the clock, so
each partition is a closed loop: its next step waits until the visit before is answered and its clicks have come back
as labels. Partitions go on side by side.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator

from stream.datasets.base import Dataset, Step, Totals, Visit
from stream.errors import ReplayError
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.system import System
from stream.schema.events import RequestKey, decode_outcome, decode_score, encode_json
from stream.schema.partitioner import partition_of
from stream.schema.update_headers import read_update_headers

_AHEAD = 256
"""Steps that lanes may hold: how far one partition may run ahead of another."""
_UNTRAINED = 10_000
"""Samples asked for and not learned yet, beyond which the replay waits: what answers is to know what is past."""
_ANSWER_S = 60.0
_WATCH_S = 0.25


class Lane:
    """The steps of one partition number, one visit at a time."""

    def __init__(self) -> None:
        self.waiting: deque[Step] = deque()
        self.visit: Visit | None = None
        self.answered = False
        self.unlabelled: set[str] = set()
        self.since = 0.0

    @property
    def busy(self) -> bool:
        """Whether a visit is under way."""
        return self.visit is not None


class Replay:
    """Sends a dataset through a running system.

    Args:
        system: broker, topics, worker and trainer; the trainer must be at its start.
        dataset: what to send.
        speed: event-time seconds a second; None for as fast as the system answers.
        visits: stop after so many visits; None for all.
    """

    def __init__(
        self, system: System, dataset: Dataset, *, speed: float | None = None, visits: int | None = None
    ) -> None:
        self._system = system
        self._dataset = dataset
        self._speed = speed
        self._visits = visits
        self.totals = _totals(dataset, visits)
        """How much there is to be done."""
        self._sender = ReliableProducer(system.settings.kafka)
        topics = system.topics
        self._tail = TopicReader(
            system.settings.kafka, [topics.scores, topics.outcomes, topics.model_updates, topics.dead_letters]
        )
        self._lanes = [Lane() for _ in range(system.settings.topics.partitions)]
        self._under_way: dict[RequestKey, Lane] = {}
        self._partitions: dict[str, int] = {}
        self._origin: tuple[float, int] | None = None
        self._next_watch = 0.0
        self.behaviors = 0
        self.visits = 0
        self.asked: list[int] = []
        """Event times (ms) of the impressions sent."""
        self.clicks = 0
        self.samples = 0
        self.dead_letters = 0
        self.trained = 0
        """Samples that the trainer says it has learned."""

    def run(self, watch: Callable[["Replay"], None]) -> float:
        """Send everything and wait until every sample is learned; returns the seconds it took.

        Args:
            watch: called a few times a second.

        Raises:
            ReplayError: when an answer or a label does not come within a minute, or the trainer stops.
            ChildDiedError: when a process of the system dies.
            BrokerError: when its broker does.
        """
        began = time.monotonic()
        steps = self._wanted()
        step = next(steps, None)
        while step is not None or any(lane.busy or lane.waiting for lane in self._lanes):
            ahead = sum(len(lane.waiting) for lane in self._lanes)
            while step is not None and ahead < _AHEAD and self._is_due(step):
                self._lane_of(step).waiting.append(step)
                ahead += 1
                step = next(steps, None)
            if self.samples - self.trained < _UNTRAINED:
                for lane in self._lanes:
                    self._advance(lane)
            self._listen(0.002, watch)
        self._await_training(watch)
        return time.monotonic() - began

    def _wanted(self) -> Iterator[Step]:
        """Yield the steps up to the last wanted visit."""
        asked = 0
        for step in self._dataset.steps():
            yield step
            asked += isinstance(step, Visit)
            if asked == self._visits:
                return

    def _is_due(self, step: Step) -> bool:
        """Say whether a step's time has come, at the chosen speed."""
        if self._speed is None:
            return True
        ts = step.behaviors[0].ts
        if self._origin is None:
            self._origin = (time.monotonic(), ts)
        began, first = self._origin
        return time.monotonic() - began >= (ts - first) / 1000 / self._speed

    def _lane_of(self, step: Step) -> Lane:
        user = step.behaviors[0].user
        if user not in self._partitions:
            self._partitions[user] = partition_of(user.encode(), len(self._lanes))
        return self._lanes[self._partitions[user]]

    def _advance(self, lane: Lane) -> None:
        """Send what the lane may send now: observations up to its next visit, or the truth of the visit under way."""
        if lane.visit is not None:
            if not lane.answered or lane.unlabelled:
                if time.monotonic() - lane.since > _ANSWER_S:
                    missing = "score" if not lane.answered else f"labels of {sorted(lane.unlabelled)}"
                    raise ReplayError(
                        f"no {missing} for request {lane.visit.impression.request_id} after {_ANSWER_S:.0f} s:"
                        " see the worker's log"
                    )
                return
            self._send_behaviors(lane.visit)
            del self._under_way[lane.visit.impression.request]
            lane.visit = None
            self.visits += 1
        while lane.waiting and lane.visit is None:
            step = lane.waiting.popleft()
            if isinstance(step, Visit):
                self._ask(lane, step)
            else:
                self._send_behaviors(step)

    def _ask(self, lane: Lane, visit: Visit) -> None:
        impression = visit.impression
        lane.visit, lane.answered, lane.since = visit, False, time.monotonic()
        lane.unlabelled = {click.item for click in visit.clicks}
        self._under_way[impression.request] = lane
        self._sender.send(self._system.topics.impressions, encode_json(impression), key=impression.user)
        self.samples += len(impression.candidates)
        self.asked.append(impression.ts)

    def _send_behaviors(self, step: Step) -> None:
        for behavior in step.behaviors:
            self._sender.send(self._system.topics.behaviors, encode_json(behavior), key=behavior.user)
        self.behaviors += len(step.behaviors)

    def _listen(self, timeout_s: float, watch: Callable[["Replay"], None]) -> None:
        """Take scores, labels and the trainer's announcements; report progress and see that all processes live."""
        topics = self._system.topics
        self._sender.poll()
        for message in self._tail.read(timeout_s):
            topic, value = message.topic(), message.value() or b""
            if topic == topics.model_updates:
                if announced := read_update_headers(message):
                    self.trained = max(self.trained, announced.samples)
            elif topic == topics.scores:
                score = decode_score(value)
                if (lane := self._under_way.get(score.request)) and lane.visit and not lane.answered:
                    lane.answered = True
                    self.clicks += len(lane.visit.clicks)
                    for click in lane.visit.clicks:
                        self._sender.send(topics.clicks, encode_json(click), key=click.user)
            elif topic == topics.dead_letters:
                self.dead_letters += 1
            else:
                outcome = decode_outcome(value)
                if lane := self._under_way.get(outcome.request):
                    lane.unlabelled.difference_update(outcome.items)
        if time.monotonic() >= self._next_watch:
            self._next_watch = time.monotonic() + _WATCH_S
            self._system.check()
            watch(self)

    def _await_training(self, watch: Callable[["Replay"], None]) -> None:
        self._sender.flush()
        seen, since = self.trained, time.monotonic()
        while self.trained < self.samples:
            self._listen(0.1, watch)
            if self.trained > seen:
                seen, since = self.trained, time.monotonic()
            elif time.monotonic() - since > _ANSWER_S:
                raise ReplayError(
                    f"the trainer stopped at {self.trained} of {self.samples} samples: see the trainer's log"
                )

    def close(self) -> None:
        """Stop listening."""
        self._tail.close()


def _totals(dataset: Dataset, visits: int | None) -> Totals:
    """Return what a dataset holds up to so many visits."""
    if visits is None or visits >= dataset.totals.visits:
        return dataset.totals
    behaviors = asked = samples = positives = 0
    for step in dataset.steps():
        behaviors += len(step.behaviors)
        if isinstance(step, Visit):
            asked += 1
            samples += len(step.impression.candidates)
            positives += len(step.clicks)
            if asked == visits:
                break
    return Totals(behaviors, asked, samples, positives)

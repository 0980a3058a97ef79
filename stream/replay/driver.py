"""Drives a data set through a running system, so that every visit is predicted before its clicks are known.

Impression → score → clicks → samples → updates. Event time is that of the data and runs far faster than the clock, so
each partition is a closed loop (`ClosedLoop`); the partitions run side by side.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from stream.datasets.base import Dataset, DatasetTotals, Step, first_visits
from stream.errors import ReplayError
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.local.system import System
from stream.replay.closed_loop import ANSWER_TIMEOUT_S, ClosedLoop, ReplayCounts
from stream.schema.events import Behavior, Click, Impression, decode_outcome, decode_score, encode_json
from stream.schema.partitioner import partition_of
from stream.schema.update_headers import read_update_headers

_MAX_WAITING = 256
"""Steps that may wait in all partitions together: how far one may run ahead of another."""
_MAX_UNTRAINED = 50_000
"""Samples sent and not announced as learned yet, beyond which the replay waits."""
_WATCH_S = 0.25

Watch = Callable[["Replay"], None]


class Replay:
    """Sends a data set through a running system; to be used as a context manager.

    Args:
        system: broker, topics, workers and trainer; the trainer must be at its start.
        dataset: the data.
        speed: seconds of event time in a second; None for as fast as the system answers.
        visits: stop after this many visits; None for all.

    Attributes:
        counts: what is done.
        totals: what is to be done.
    """

    def __init__(
        self, system: System, dataset: Dataset, *, speed: float | None = None, visits: int | None = None
    ) -> None:
        self._system = system
        self._dataset = dataset
        self._speed = speed
        self._visits = visits
        self.totals = _totals(dataset, visits)
        self.counts = ReplayCounts()
        self._sender = ReliableProducer(system.settings.kafka)
        topics = system.topics
        self._tail = TopicReader(
            system.settings.kafka, [topics.scores, topics.outcomes, topics.model_updates, topics.dead_letters]
        )
        self._loops = [ClosedLoop(self._send, topics, self.counts) for _ in range(system.settings.topics.partitions)]
        self._partitions: dict[str, int] = {}
        self._origin: tuple[float, int] | None = None
        self._next_watch = 0.0

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading."""
        self._tail.close()

    def run(self, watch: Watch) -> float:
        """Send everything and wait until every sample is learned; returns the seconds it took.

        Args:
            watch: called a few times a second.

        Raises:
            ReplayError: when an answer or a label does not come within a minute, or the trainer stops.
            ChildDiedError: when a process of the system dies.
            BrokerError: when its broker dies.
        """
        began = time.monotonic()
        steps = first_visits(self._dataset.steps(), self._visits)
        step = next(steps, None)
        while step is not None or any(loop.busy for loop in self._loops):
            waiting = sum(loop.waiting for loop in self._loops)
            while step is not None and waiting < _MAX_WAITING and self._is_due(step):
                self._loop_of(step.behaviors[0].user).add(step)
                waiting += 1
                step = next(steps, None)
            if self.counts.samples - self.counts.trained < _MAX_UNTRAINED:
                for loop in self._loops:
                    loop.advance()
            self._read(0.002, watch)
        self._await_training(watch)
        return time.monotonic() - began

    def _is_due(self, step: Step) -> bool:
        """Return whether a step's time has come, at the chosen speed."""
        if self._speed is None:
            return True
        ts = step.behaviors[0].ts
        if self._origin is None:
            self._origin = (time.monotonic(), ts)
        began, first = self._origin
        return time.monotonic() - began >= (ts - first) / 1000 / self._speed

    def _loop_of(self, user: str) -> ClosedLoop:
        if user not in self._partitions:
            self._partitions[user] = partition_of(user.encode(), len(self._loops))
        return self._loops[self._partitions[user]]

    def _send(self, topic: str, event: Behavior | Click | Impression) -> None:
        self._sender.send(topic, encode_json(event), key=event.user)

    def _read(self, timeout_s: float, watch: Watch) -> None:
        """Take scores, labels and the trainer's announcements; see that all processes live, and report progress."""
        topics = self._system.topics
        self._sender.poll()
        for message in self._tail.read(timeout_s):
            topic, value = message.topic(), message.value() or b""
            if topic == topics.model_updates:
                if announced := read_update_headers(message.headers()):
                    self.counts.trained = max(self.counts.trained, announced.samples)
            elif topic == topics.scores:
                score = decode_score(value)
                self._loop_of(score.user).take_answer(score.request)
            elif topic == topics.outcomes:
                outcome = decode_outcome(value)
                self._loop_of(outcome.user).take_labels(outcome.request, outcome.items)
            else:
                self.counts.dead_letters += 1
        if time.monotonic() >= self._next_watch:
            self._next_watch = time.monotonic() + _WATCH_S
            self._system.check()
            watch(self)

    def _await_training(self, watch: Watch) -> None:
        self._sender.flush()
        counts = self.counts
        trained, since = counts.trained, time.monotonic()
        while counts.trained < counts.samples:
            self._read(0.1, watch)
            if counts.trained > trained:
                trained, since = counts.trained, time.monotonic()
            elif time.monotonic() - since > ANSWER_TIMEOUT_S:
                raise ReplayError(
                    f"the trainer stopped at {counts.trained} of {counts.samples} samples: see the trainer's log"
                )


def _totals(dataset: Dataset, visits: int | None) -> DatasetTotals:
    if visits is None or visits >= dataset.totals.visits:
        return dataset.totals
    return DatasetTotals.of(first_visits(dataset.steps(), visits))
